import { svelte } from '@sveltejs/vite-plugin-svelte'
import { defineConfig } from 'vite'

// The server's policy allows scripts and styles only from itself, as files: nothing may be inlined,
// so no asset becomes a data: URL and no module-preload helper is injected.
export default defineConfig({
  base: './',
  plugins: [svelte()],
  build: {
    outDir: '../strobe/app/static',
    emptyOutDir: true,
    target: 'es2022',
    assetsInlineLimit: 0,
    modulePreload: false,
    cssCodeSplit: false,
    reportCompressedSize: true,
  },
})
