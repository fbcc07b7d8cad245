/** Colours of traces (Okabe and Ito, legible to the colour-blind) and of pictures. */
import { css } from './theme.svelte'

export const trace = (i: number) => css(`--t${i % 8}`)

type RGB = [number, number, number]

function rgb(hex: string): RGB {
  const h = hex.replace('#', '')
  const full = h.length === 3 ? [...h].map((c) => c + c).join('') : h
  return [0, 2, 4].map((i) => parseInt(full.slice(i, i + 2), 16)) as RGB
}

export function fade(hex: string, alpha: number): string {
  const [r, g, b] = rgb(hex)
  return `rgba(${r},${g},${b},${alpha})`
}

const mix = (a: RGB, b: RGB, t: number): RGB => [a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t]

export interface Scale { low: number; high: number; signed: boolean; at: (v: number) => RGB; none: RGB }

/** From the paper to the ink for what is positive; blue - paper - vermillion about zero for what has a sign. */
export function scale(low: number, high: number, signed: boolean): Scale {
  const paper = rgb(css('--map-zero'))
  const mid = rgb(css('--map-mid'))
  const end = rgb(css('--map-end'))
  const plus = rgb(css('--map-plus'))
  const minus = rgb(css('--map-minus'))
  const none = rgb(css('--map-none'))
  if (signed) {
    const m = Math.max(Math.abs(low), Math.abs(high)) || 1
    return { low: -m, high: m, signed, none, at: (v) => mix(paper, v < 0 ? minus : plus, Math.min(Math.abs(v) / m, 1)) }
  }
  const w = high - low || 1
  return {
    low, high, signed, none,
    at: (v) => {
      const t = Math.min(Math.max((v - low) / w, 0), 1)
      return t < 0.5 ? mix(paper, mid, t * 2) : mix(mid, end, t * 2 - 1)
    },
  }
}

export const rgbText = (c: RGB) => `rgb(${c.map(Math.round).join(',')})`

/** Black or white, whichever reads better on this colour. */
export function inkOn(c: RGB): string {
  const lin = c.map((v) => ((v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
  const l = 0.2126 * lin[0] + 0.7152 * lin[1] + 0.0722 * lin[2]
  return l > 0.179 ? '#000' : '#fff'
}

export function extent(values: Iterable<number | null | undefined>): [number, number] {
  let low = Infinity
  let high = -Infinity
  for (const v of values) {
    if (typeof v !== 'number' || !Number.isFinite(v)) continue
    if (v < low) low = v
    if (v > high) high = v
  }
  return low > high ? [0, 1] : [low, high]
}
