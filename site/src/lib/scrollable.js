// A rehype plugin: what may be wider than a phone scrolls by itself, by the keyboard too.

export function scrollable() {
  return (tree) => walk(tree);
}

function walk(node) {
  node.children = node.children?.map((child) => {
    walk(child);
    if (child.tagName === "pre") child.properties.tabIndex = 0;
    if (child.tagName !== "table") return child;
    const properties = { className: ["wide"], tabIndex: 0, role: "group", ariaLabel: "Table" };
    return { type: "element", tagName: "div", properties, children: [child] };
  });
}
