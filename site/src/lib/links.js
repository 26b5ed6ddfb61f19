// Links of the repository's documents, which lead from file to file, made to lead from page to page.

import { relative, resolve } from "node:path";

// Where pnpm runs what it is told to is the directory of package.json.
const ROOT = resolve(process.cwd(), "..");

/** The page of a file of the repository, from the top of the site; `null`: it has none. */
export function page(file) {
  const name = relative(ROOT, file);
  if (name === "README.md") return "index.html";
  const document = /^docs\/(.+)\.md$/.exec(name);
  return document ? `docs/${document[1]}.html` : null;
}

/** A remark plugin. Where there is no page, what was a link is only text. */
export function links() {
  return (tree, file) => {
    const own = page(file.path);
    visit(tree, (node, number, parent) => {
      if (node.type !== "link" || /^([a-z]+:|#)/.test(node.url)) return;
      const [path, anchor] = node.url.split("#");
      const there = page(resolve(file.dirname, path));
      if (there && own) {
        node.url = toPage(own, there) + (anchor ? `#${anchor}` : "");
      } else {
        parent.children.splice(number, 1, ...node.children);
      }
    });
  };
}

/** The relative link from one page of the site to another. */
export function toPage(from, to) {
  return "../".repeat(from.split("/").length - 1) + to;
}

function visit(node, each, number, parent) {
  // Backwards, since what is visited may be replaced by several.
  for (let n = (node.children?.length ?? 0) - 1; n >= 0; n -= 1) visit(node.children[n], each, n, node);
  if (parent) each(node, number, parent);
}
