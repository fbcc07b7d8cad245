/** The shapes of the server's answers (see the API's own description at /api/openapi.json). */
export type Num = number | null

export interface Verdicts { sealed: number; holds: number; fails: number; undecided: number; outside: number }

export interface Row {
  id: string
  name: string
  created: number
  status: string
  live: boolean
  start: number
  last: number
  parent: { id: string; name: string; step: number } | null
  about: Record<string, unknown>
  edits: string[]
  snapshots: number
  loss: { step: number; value: Num } | null
  verdicts: Verdicts
  damaged: string | null
}

export interface Control { name: string; low: Num; high: Num; unit: string; value: Num }
export interface SeriesInfo { name: string; points: number; last_step: number; last: Num; scalar: boolean }
export interface Line { value: number; label: string; err?: Num }
export interface Curve { steps: number[]; values: Num[]; label: string }
export interface Panel {
  title: string
  series: string[]
  unit: string
  log: boolean
  labels: Record<string, string>
  lines: Line[]
  curves: Curve[]
  note: string
}

export interface Branch { id: string; name: string; start: number; last: number; status: string; edits: string[] }

export interface RunDetail extends Row {
  stored: number[]
  series: SeriesInfo[]
  arrays: string[]
  controls: Control[]
  replayable: boolean
  why_not: string
  examples: boolean
  lineage: { id: string; name: string; until: number }[]
  branches: Branch[]
  objects: Record<string, unknown>
  surroundings: Record<string, unknown>
  entry: Record<string, unknown> | null
  panels: Panel[]
}

export interface Trace {
  steps: number[]
  values: Num[]
  errs: Num[] | null
  n?: number
  thinned?: boolean
  bad?: number[]
  label?: string
}
export type Traces = Record<string, Trace>

export interface Ev { type: string; step: number; time: number; [key: string]: unknown }
export interface Boundary {
  step: number
  err: number
  method: string
  /** How often resampled data have it, beyond chance; null in runs that did not record it. */
  sure: number | null
  of: string
  facts: string[]
  agrees: { method: string; step: number; err: number }[]
}
export interface Stages { value: number[]; err: number[]; boundaries?: Boundary[]; how: { stages?: Record<string, unknown>[]; [key: string]: unknown } }
export interface Verdict { word: string; why: string; value: Num; err: Num; unit: string; how: unknown; step: number }
export interface Law {
  of: string
  law: string
  knobs: Record<string, unknown> | null
  formula: string
  tol: unknown
  side: string | null
  when: string
  ref: string
  fitted: number
  predicted: unknown
  /** What it is drawn against on the strip, and where: a curve's steps, or the first and last that a number speaks of. */
  series: string
  steps: number[]
  said: string
  sealed_step: number
  sealed_time: number
  seal: string
  sealed: boolean
  verdict: Verdict | null
  falsified_by: string
  late?: boolean
}
export interface Reading { step: number; value: unknown; err: unknown; unit: string; how: Record<string, unknown> }

export interface Suspects {
  ids: (string | number)[]
  mean: Num[]
  last: Num[]
  first: Num[]
  times: number[]
  suspicion: Num[]
  err?: Num[]
  learned: Num[]
  forgotten: number[]
  marked: (string | number)[]
  total?: number
}

/** What the looks answer. */
export interface Valued { value: Num; err: Num }
export interface Guess { text: string; p: number }
export interface Token { id: number; text: string }
export interface Site { site: string; shape: number[] }
export interface Weight {
  name: string
  shape: number[]
  mean: Num
  std: Num
  min: Num
  max: Num
  norm: Num
  hist: { edges: number[]; counts: number[] }
  grad_norm: Num
  grad_std: Num
}
export interface Module { path: string; kind: string; params: number; depth: number; sites: Site[]; weights: Weight[] }
export interface Modules {
  modules: Module[]
  total: number
  language: boolean
  examples: number
  heads: { site: string; count: number; layer: string }[]
  loss: Valued
}
export interface TokensLook { tokens: Token[]; loss: Num[]; mean: Valued; next: Guess[][]; truncated: boolean }
export interface AttentionLook { tokens: Token[]; layers: { site: string; heads: number[][][] }[] }
export interface LensLook { tokens: Token[]; rows: { site: string; top: Guess[][] | Guess[]; loss: Num[] }[]; norm: string; unembed: string }
export interface Picture {
  site: string
  shape: number[]
  values: number[][]
  axes: string[]
  mean: Num
  std: Num
  min: Num
  max: Num
  pooled: boolean
}
export interface ExampleRow {
  i: number
  loss: Num
  text?: string | null
  label?: string | number | null
  input: { kind: string; values: number[][] | number[] | string } | null
  prediction: unknown
}
export interface ExamplesLook { rows: ExampleRow[]; mean: Valued; n: number }
export interface DoseLook {
  doses: number[]
  loss: Num[]
  err: Num[]
  control: { loss: Num[]; err: Num[]; how: string } | null
  base: Valued
  outputs: { dose: number; top: Guess[] }[] | null
}
export interface Direction { name: string; direction: number[]; explained: Num; mean: number[] }
export interface DirectionsLook { site: string; directions: Direction[]; rows: number; features: number; how: string }
export interface ConceptRow { site: string; method: string; auroc: number; low: number; high: number; stability: Num }
export interface ConceptText { text: string; on: boolean; score: number; tokens: { text: string; score: Num }[] }
export interface ConceptLook {
  said: string
  there: boolean
  linear: boolean | null
  methods: string[]
  rows: ConceptRow[]
  best: { site: string; method: string }
  threshold: number
  steer: { site: string; direction: number[]; gap: number }
  texts: ConceptText[]
  monitor: { rate: number; auroc: number; err: number; caught: number[]; sites: number } | null
}
export interface QuickConcept { sites: string[]; line: number[]; kernel: number[] }
export interface FrontArm { trait: Num[]; trait_err: Num[]; loss: Num[]; loss_err: Num[]; on: Num[][]; off: Num[][]; each: Num[][] }
export interface FrontLook extends FrontArm { doses: number[]; control: FrontArm | null }
export interface SiteEdit { act: 'site'; site: string; label: string; edit: string; kwargs: Record<string, unknown> }
export interface Job { job: string; state: 'running' | 'done' | 'failed'; step: Num; run: string | null; error: string }
