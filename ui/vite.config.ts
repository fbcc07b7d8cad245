import { svelte } from '@sveltejs/vite-plugin-svelte'
import { defineConfig } from 'vite'

const outDir = '../strobe/app/static'

// The pages. The server's policy allows scripts and styles only from itself, as files: nothing may be inlined,
// so no asset becomes a data: URL and no module-preload helper is injected.
const pages = defineConfig({
  base: './',
  plugins: [svelte()],
  build: { outDir, emptyOutDir: true, target: 'es2022', assetsInlineLimit: 0, modulePreload: false, cssCodeSplit: false, reportCompressedSize: true },
})

// The widget for notebooks: one module with its styles inside.
const widget = defineConfig({
  plugins: [svelte({ emitCss: false, compilerOptions: { css: 'injected' } })],
  define: { 'process.env.NODE_ENV': '"production"' },
  build: {
    outDir,
    emptyOutDir: false,
    target: 'es2022',
    lib: { entry: 'src/widget/widget.ts', formats: ['es'], fileName: () => 'widget.js' },
  },
})

export default defineConfig(({ mode }) => (mode === 'widget' ? widget : pages))
