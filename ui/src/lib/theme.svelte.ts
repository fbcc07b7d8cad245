/** Light or dark: the system's choice until the person makes one. `version` lets canvases redraw. */
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

  constructor() {
    this.apply()
    system.addEventListener('change', () => this.apply())
  }

  apply(): void {
    this.dark = this.chosen ? this.chosen === 'dark' : system.matches
    document.documentElement.dataset.theme = this.dark ? 'dark' : 'light'
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
    v = getComputedStyle(document.documentElement).getPropertyValue(name).trim()
    if (v) cache.set(name, v)
  }
  return v || '#888'
}

export const theme = new Theme()
