/** The runs as a forest: children under their parents, the newest tree first; a filter keeps the ancestors of what it finds. */
import type { Row } from '../lib/types'

export interface Node { row: Row; depth: number; match: boolean }

const text = (r: Row) => `${r.name} ${r.id} ${r.status} ${Object.entries(r.about).map(([k, v]) => `${k}=${String(v)}`).join(' ')} ${r.edits.join(' ')}`.toLowerCase()

export function tree(rows: Row[], filter: string): Node[] {
  const words = filter.toLowerCase().split(/\s+/).filter(Boolean)
  const byId = new Map(rows.map((r) => [r.id, r]))
  const children = new Map<string, Row[]>()
  for (const r of rows) {
    const up = r.parent && byId.has(r.parent.id) && r.parent.id !== r.id ? r.parent.id : ''
    children.set(up, [...(children.get(up) ?? []), r])
  }
  const out: Node[] = []
  const seen = new Set<string>()
  const visit = (row: Row, depth: number): boolean => {
    if (seen.has(row.id)) return false // a damaged folder may claim a circle
    seen.add(row.id)
    const match = words.every((w) => text(row).includes(w))
    const at = out.length
    out.push({ row, depth, match })
    let any = match
    for (const c of (children.get(row.id) ?? []).sort((a, b) => (a.parent?.step ?? 0) - (b.parent?.step ?? 0) || a.created - b.created)) any = visit(c, depth + 1) || any
    if (!any) out.splice(at)
    return any
  }
  for (const r of (children.get('') ?? []).sort((a, b) => b.created - a.created)) visit(r, 0)
  return out
}
