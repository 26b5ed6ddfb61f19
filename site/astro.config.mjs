import { defineConfig } from "astro/config";

import { links } from "./src/lib/links.js";
import { scrollable } from "./src/lib/scrollable.js";

export default defineConfig({
  // Plain files that lead to each other by relative links: good for any place, also without a server.
  build: { format: "file", inlineStylesheets: "always" },
  compressHTML: true,
  devToolbar: { enabled: false },
  markdown: { syntaxHighlight: false, remarkPlugins: [links], rehypePlugins: [scrollable] },
});
