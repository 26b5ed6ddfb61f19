// The families of docs/metrics.md, which CI compares with what a gateway tells: all of its and no
// others.

const ROW = /^\| `((?:coppice|process)_\w+)` \| (\w+) \|[^|]*\|([^|]*)\|(.*)\|$/gm;

export function families(document) {
  return [...document.matchAll(ROW)].map(([, name, kind, labels, meaning]) => ({
    name,
    kind,
    labels: words(labels),
    meaning: words(meaning),
  }));
}

/** Markdown's marks taken off. */
function words(text) {
  return text.replaceAll("`", "").replace(/\[([^\]]*)\]\([^)]*\)/g, "$1").trim();
}
