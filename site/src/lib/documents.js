// The repository's documents, by their place below docs/.

const found = import.meta.glob("../../../docs/**/*.md", { eager: true });

export const documents = Object.entries(found)
  .map(([path, { Content, getHeadings }]) => ({
    slug: /\/docs\/(.+)\.md$/.exec(path)[1],
    title: getHeadings().find(({ depth }) => depth === 1)?.text ?? path,
    Content,
  }))
  .sort((a, b) => a.title.localeCompare(b.title));
