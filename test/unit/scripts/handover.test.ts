// The files of objects between two processes: a launcher that is killed at any step of the move loses none of them.
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { settleObjects } from '../../../scripts/handover.ts'

/** In the order of the move: a database's own file is its last. */
const FILES = ['b.sqlite-wal', 'a.sqlite', 'b.sqlite']
const ALARMS = ['metadata.sqlite', 'metadata.sqlite-wal']

/** As it was before the move. */
function folder() {
  const dir = mkdtempSync(join(tmpdir(), 'penstock-objects-'))
  onTestFinished(() => rmSync(dir, { recursive: true }))
  const objects = join(dir, 'objects')
  for (const namespace of ['x-Account', 'x-Fleet']) {
    mkdirSync(join(objects, namespace), { recursive: true })
    for (const name of [...FILES, ...ALARMS]) writeFileSync(join(objects, namespace, name), `${namespace} ${name}`)
  }
  return { dir, objects }
}

type Step = (dir: string) => void
const at = (...path: string[]) => join(...path)
const moves: Step[] = ['x-Account', 'x-Fleet'].flatMap((namespace): Step[] => [
  (dir) => mkdirSync(at(dir, 'objects.next', namespace), { recursive: true }),
  ...FILES.map(
    (name): Step =>
      (dir) => {
        renameSync(at(dir, 'objects', namespace, name), at(dir, 'objects.next', namespace, name))
        // An alarm of the old process makes it again, empty, and with a log that belongs to no other.
        writeFileSync(at(dir, 'objects', namespace, name), 'empty')
        if (name.endsWith('.sqlite')) writeFileSync(at(dir, 'objects', namespace, `${name}-wal`), 'foreign')
      },
  ),
  (dir) => writeFileSync(at(dir, 'objects.next', namespace, 'metadata.sqlite.draft'), 'half'),
  (dir) => {
    rmSync(at(dir, 'objects.next', namespace, 'metadata.sqlite.draft'))
    writeFileSync(at(dir, 'objects.next', namespace, 'metadata.sqlite'), `${namespace} metadata.sqlite`)
  },
])
const steps: Step[] = [
  ...moves,
  (dir) => renameSync(at(dir, 'objects'), at(dir, 'objects.left-1')),
  (dir) => renameSync(at(dir, 'objects.next'), at(dir, 'objects')),
]

test.each(Array.from({ length: steps.length + 1 }, (_, done) => done))('after %i steps', async (done) => {
  const { dir, objects } = folder()
  for (const step of steps.slice(0, done)) step(dir)
  await settleObjects(objects)
  expect(readdirSync(dir)).toEqual(['objects'])
  for (const namespace of ['x-Account', 'x-Fleet']) {
    for (const name of [...FILES, 'metadata.sqlite']) {
      expect(readFileSync(join(objects, namespace, name), 'utf8')).toBe(`${namespace} ${name}`)
    }
    const others = readdirSync(join(objects, namespace)).filter(
      (name) => !FILES.includes(name) && !ALARMS.includes(name),
    )
    expect(others).toEqual([])
  }
  await settleObjects(objects)
  expect(existsSync(join(objects, 'x-Account', 'a.sqlite'))).toBe(true)
})
