/** Light or dark: the system's choice until the person makes one. Who draws reads `theme.dark`, so that canvases redraw. */
const KEY = 'strobe.theme'
const system = matchMedia('(prefers-color-scheme: dark)')

function stored(): string {
  try {
    return localStorage.getItem(KEY) ?? ''
  } catch {
    return ''
  }
}

class Theme {
  chosen = $state(stored())
  dark = $state(system.matches)

  /** What wears the colours: the document of our own pages, or one element in the page of a notebook. */
  #hosts = new Set<HTMLElement>()

  constructor() {
    system.addEventListener('change', () => this.apply())
  }

  /** Dress an element; returns how to leave it. */
  wear(host: HTMLElement, chosen = this.chosen): () => void {
    this.chosen = chosen
    this.#hosts.add(host)
    this.apply()
    return () => this.#hosts.delete(host)
  }

  /** A dressed element that is on the page now: only there colour variables have values. */
  get host(): HTMLElement {
    return [...this.#hosts].find((h) => h.isConnected) ?? document.documentElement
  }

  apply(): void {
    this.dark = this.chosen ? this.chosen === 'dark' : system.matches
    for (const host of this.#hosts) host.dataset.theme = this.dark ? 'dark' : 'light'
    cache.clear()
  }

  toggle(): void {
    this.chosen = this.dark ? 'light' : 'dark'
    try {
      localStorage.setItem(KEY, this.chosen)
    } catch {
      /* private windows may refuse: the choice then lasts as long as the page */
    }
    this.apply()
  }
}

const cache = new Map<string, string>()

/** A colour variable's value now (canvases cannot use var()). */
export function css(name: string): string {
  let v = cache.get(name)
  if (v === undefined) {
    v = getComputedStyle(theme.host).getPropertyValue(name).trim()
    if (v) cache.set(name, v)
  }
  return v || '#888'
}

export const theme = new Theme()
