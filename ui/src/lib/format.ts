/** Numbers as a physicist writes them: as many digits as the error allows. */
export function num(v: unknown, digits = 4): string {
  if (v === null || v === undefined || v === '') return 'n/a'
  if (typeof v !== 'number') return Array.isArray(v) ? v.slice(0, 6).map((x) => num(x, 3)).join(', ') + (v.length > 6 ? ', ...' : '') : String(v)
  if (!Number.isFinite(v)) return 'n/a'
  if (v === 0) return '0'
  const a = Math.abs(v)
  if (Number.isInteger(v) && a < 1e7) return String(v)
  if (a >= 1e5 || a < 1e-3) return v.toExponential(Math.max(digits - 2, 1)).replace(/\.?0+e/, 'e').replace('e+', 'e')
  return String(Number(v.toPrecision(digits)))
}

export function pm(value: unknown, err: unknown): string {
  if (typeof value !== 'number' || typeof err !== 'number' || !(err > 0)) return num(value)
  const a = Math.max(Math.abs(value), err)
  if (a >= 1e5 || a < 1e-3) {
    const p = Math.floor(Math.log10(a))
    const d = Math.min(Math.max(p - Math.floor(Math.log10(err)) + 1, 1), 6)
    return `(${(value / 10 ** p).toFixed(d)} ± ${(err / 10 ** p).toFixed(d)})e${p}`
  }
  const d = Math.min(Math.max(1 - Math.floor(Math.log10(err)), 0), 8)
  return `${value.toFixed(d)} ± ${err.toFixed(d)}`
}

export function signed(v: Num2): string {
  return typeof v === 'number' && v > 0 ? '+' + num(v) : num(v)
}
type Num2 = number | null | undefined

export const percent = (p: Num2) => (typeof p === 'number' ? (100 * p).toFixed(p < 0.0995 ? 1 : 0) + ' %' : 'n/a')

export function ago(seconds: number): string {
  const d = Date.now() / 1000 - seconds
  if (d < 90) return 'just now'
  if (d < 5400) return `${Math.round(d / 60)} min ago`
  if (d < 129600) return `${Math.round(d / 3600)} h ago`
  return `${Math.round(d / 86400)} d ago`
}

export const clock = (seconds: number) => (seconds ? new Date(seconds * 1000).toLocaleString() : 'n/a')

/** White space and controls made visible, so that a token is never an empty box. */
export function visible(text: string): string {
  const t = text.replace(/\n/g, '⏎').replace(/\t/g, '⇥').replace(/^ +| +$/g, (s) => '·'.repeat(s.length))
  return t === '' ? '∅' : t
}

export const short = (text: string, n = 40) => (text.length > n ? text.slice(0, n - 1) + '…' : text)

/** Any plain data as one line of text. */
export function plain(v: unknown): string {
  if (v === null || v === undefined) return 'none'
  if (typeof v === 'number') return num(v)
  if (Array.isArray(v)) return short(v.map(plain).join(', '), 160)
  if (typeof v === 'object') return short(Object.entries(v).map(([k, x]) => `${k} ${plain(x)}`).join('; '), 240)
  return String(v)
}
