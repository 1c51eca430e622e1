import { defineConfig } from "vite";

// Plain names, no hashes: the server tells with an ETag whether a browser has the newest.
export default defineConfig({
  base: "./", // the app may be mounted anywhere
  esbuild: { jsx: "automatic", jsxImportSource: "preact", legalComments: "none" },
  build: {
    outDir: "../assets",
    emptyOutDir: true,
    target: "es2022",
    modulePreload: false,
    assetsInlineLimit: 0,
    rollupOptions: {
      output: { entryFileNames: "page.js", assetFileNames: "page[extname]" },
    },
  },
});
