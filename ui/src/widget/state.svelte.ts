/** The strip of a run in a notebook: all numbers came with the widget, nothing is asked for. */
import { nearest } from '../lib/axis'
import type { Branch, Ev, Law, Panel, Reading, Stages, Traces } from '../lib/types'
import { flipped, type View } from '../lib/view'

/** What Python hands over. */
export interface Given {
  id: string
  name: string
  status: string
  first: number
  last: number
  stored: number[]
  detail: { series: { name: string; scalar: boolean }[] }
  panels: Panel[]
  traces: Traces
  branches: Branch[]
  branch_traces: Record<string, Traces>
  events: Ev[]
  stages: Stages | null
  laws: Law[]
}

/** The part of anywidget's model that is used here. */
export interface Model {
  get(key: string): unknown
  set(key: string, value: unknown): void
  save_changes(): void
  on(event: string, hear: () => void): void
  off(event: string, hear: () => void): void
}

export class Shown implements View {
  #model: Model
  given = $state.raw<Given>()!
  chosen = $state<number | null>(null)
  zoom = $state.raw<[number, number] | null>(null)
  log = $state(true)
  flips = $state.raw<Set<number>>(new Set())
  hidden = $state.raw<string[]>([])

  constructor(model: Model) {
    this.#model = model
    this.#read()
    for (const key of KEYS) model.on(`change:${key}`, this.#read)
  }

  id = $derived(this.given.id)
  detail = $derived(this.given.detail)
  panels = $derived(this.given.panels)
  traces = $derived(this.given.traces)
  branchTraces = $derived(this.given.branch_traces)
  shown = $derived(this.given.branches.filter((b) => !this.hidden.includes(b.id)))
  events = $derived(this.given.events)
  stages = $derived(this.given.stages)
  laws = $derived(this.given.laws)
  stored = $derived(this.given.stored)
  first = $derived(this.given.first)
  last = $derived(Math.max(this.given.last, ...this.shown.map((b) => b.last), this.first + 1))
  low = $derived(this.zoom?.[0] ?? this.first)
  high = $derived(this.zoom?.[1] ?? this.last)
  step = $derived(Math.round(Math.min(Math.max(this.chosen ?? this.given.last, this.first), this.last)))
  snapped = $derived(nearest(this.stored, this.step))

  #read = (): void => {
    this.given = this.#model.get('_given') as Given
    this.chosen = this.#model.get('step') as number | null
    const zoom = this.#model.get('zoom') as number[] | null
    this.zoom = zoom && zoom.length === 2 && zoom[1] > zoom[0] ? [zoom[0], zoom[1]] : null
  }

  #write(key: string, value: unknown): void {
    this.#model.set(key, value)
    this.#model.save_changes()
  }

  go(step: number | null): void {
    const to = step === null ? null : Math.round(Math.min(Math.max(step, this.first), this.last))
    if (to === this.chosen) return
    this.chosen = to
    this.#write('step', to)
  }

  setZoom(zoom: [number, number] | null): void {
    const [a, b] = zoom ? [Math.max(Math.floor(zoom[0]), 0), Math.ceil(zoom[1])] : [0, 0]
    this.zoom = b > a ? [a, b] : null
    this.#write('zoom', this.zoom)
  }

  flip(panel: number): void {
    this.flips = flipped(this.flips, panel)
  }

  async reading(_run: string, name: string, step: number): Promise<Reading | null> {
    throw new Error(`In Python, run.readings(${JSON.stringify(name)}) says how it was measured; this is its value at step ${step}.`)
  }

  close(): void {
    for (const key of KEYS) this.#model.off(`change:${key}`, this.#read)
  }
}

const KEYS = ['_given', 'step', 'zoom']
