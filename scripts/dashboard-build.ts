// Builds the dashboard: one page, one script with what pages load later in pieces of their own, one style sheet, names that
// change with their bytes. Owns the call of esbuild, the page's links to what was made, and the cache by digest.
//
//   node scripts/dashboard-build.ts                     into dashboard/dist, for `wrangler deploy`
//   node scripts/dashboard-build.ts --out DIR --watch   again after each change, for work on the dashboard
import { existsSync } from 'node:fs'
import { cp, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { type BuildContext, type BuildFailure, type BuildOptions, context, type Metafile } from 'esbuild'
import { digestOf, removeOld } from './bundle.ts'

/** Whatever goes into a build: a change in any of these makes a new one. */
const INPUTS = ['dashboard', 'protocol', 'sdk/src', 'package-lock.json', 'scripts/dashboard-build.ts']
/** Of its own making, where somebody built by hand. */
const NOT_INPUTS = /^dashboard\/dist\//
const ENTRY = 'dashboard/main.tsx'
const ADDRESS = '/dashboard/'
/** The line of the page that names the entry; what was made of it stands there afterwards. */
const ENTRY_LINE = '<script type="module" src="./main.tsx"></script>'
/** Files that are served as they are, under their own names. */
const STATIC = join('dashboard', 'static')
const INLINE = /<script(?![^>]*\bsrc=)|<style\b|\bstyle="|\bon[a-z]+="/

export type DashboardBuild = { dir: string; cached: boolean }

/** Returns the folder with the dashboard of the sources as they are now; builds only where they changed. */
export async function buildDashboard(options: { root: string; cacheDir: string }): Promise<DashboardBuild> {
  const digest = await digestOf(options.root, INPUTS, NOT_INPUTS)
  const buildsDir = join(options.cacheDir, 'dashboards')
  const dir = join(buildsDir, digest)
  if (existsSync(dir)) return { dir, cached: true }
  await mkdir(buildsDir, { recursive: true })
  const draft = `${dir}.${process.pid}`
  try {
    await buildInto(options.root, draft)
    await rename(draft, dir).catch((error: NodeJS.ErrnoException) => {
      // Another start on the same folder was faster; its build is the same.
      if (!existsSync(dir)) throw error
    })
  } finally {
    await rm(draft, { recursive: true, force: true })
  }
  await removeOld(buildsDir, digest)
  return { dir, cached: false }
}

/** Builds once. @throws Error with esbuild's words for what is wrong in the sources */
async function buildInto(root: string, dir: string): Promise<void> {
  const building = await contextFor(root, dir, { minify: true })
  try {
    const { metafile } = await building.rebuild().catch((failure: BuildFailure) => {
      const [first] = failure.errors
      const where = first?.location == null ? '' : `${first.location.file}:${first.location.line}: `
      throw new Error(`the dashboard cannot be built: ${where}${first?.text ?? failure.message}`)
    })
    await writePage(root, dir, metafile)
  } finally {
    await building.dispose()
  }
}

/** Builds after each change, until the process ends. The page is written last: it never names a file that is not there. */
async function watchInto(root: string, dir: string): Promise<void> {
  const building = await contextFor(root, dir, {
    minify: false,
    plugins: [
      {
        name: 'page',
        setup: (build) =>
          build.onEnd(async ({ errors, metafile }) => {
            for (const { text, location } of errors) console.error(`${location?.file}:${location?.line}: ${text}`)
            if (errors.length > 0 || metafile === undefined) return
            await writePage(root, dir, metafile).then(
              () => console.log(`built into ${dir}`),
              (error: unknown) => console.error(String(error)),
            )
          }),
      },
    ],
  })
  await building.watch()
}

function contextFor(
  root: string,
  dir: string,
  more: Pick<BuildOptions, 'minify' | 'plugins'>,
): Promise<BuildContext<BuildOptions & { metafile: true }>> {
  return context({
    absWorkingDir: root,
    entryPoints: [ENTRY],
    outdir: dir,
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'browser',
    target: ['es2023', 'safari17'],
    jsx: 'automatic',
    jsxImportSource: 'preact',
    entryNames: '[name]-[hash]',
    chunkNames: '[name]-[hash]',
    assetNames: '[name]-[hash]',
    define: { 'process.env.NODE_ENV': '"production"' },
    legalComments: 'none',
    logLevel: 'silent',
    metafile: true,
    ...more,
  })
}

/** Writes the page with the script, the pieces that it needs at once, and the style sheet. @throws Error */
async function writePage(root: string, dir: string, { outputs }: Metafile): Promise<void> {
  const template = await readFile(join(root, 'dashboard', 'index.html'), 'utf8')
  if (!template.includes(ENTRY_LINE)) throw new Error(`dashboard/index.html does not have the line ${ENTRY_LINE}`)
  // The policy that the page is served under lets nothing inline run.
  if (INLINE.test(template)) throw new Error('dashboard/index.html has an inline script or style')
  const entry = Object.keys(outputs).find((path) => outputs[path]?.entryPoint === ENTRY)
  if (entry === undefined) throw new Error(`esbuild made no entry of ${ENTRY}`)
  const sheets = Object.keys(outputs).filter((path) => path.endsWith('.css'))
  // A sheet of a piece would be made, and loaded by nobody.
  if (sheets.length > 1) throw new Error(`import all style sheets from ${ENTRY}: those of lazy pages are not loaded`)
  const href = (path: string) => `${ADDRESS}${basename(path)}`
  const head = [
    ...sheets.map((path) => `<link rel="stylesheet" href="${href(path)}" />`),
    ...neededBy(entry, outputs).map((path) => `<link rel="modulepreload" href="${href(path)}" />`),
    `<script type="module" src="${href(entry)}"></script>`,
  ].join('\n    ')
  if (existsSync(join(root, STATIC))) await cp(join(root, STATIC), dir, { recursive: true })
  const draft = join(dir, 'index.html.new')
  await writeFile(
    draft,
    template.replace(ENTRY_LINE, () => head),
  )
  await rename(draft, join(dir, 'index.html'))
}

/** The pieces without which a script does not run: it imports them, or they each other. */
function neededBy(entry: string, outputs: Metafile['outputs']): string[] {
  const needed = new Set<string>()
  const follow = (path: string) => {
    for (const { path: piece, kind, external } of outputs[path]?.imports ?? []) {
      if (kind !== 'import-statement' || external === true || needed.has(piece)) continue
      needed.add(piece)
      follow(piece)
    }
  }
  follow(entry)
  return [...needed]
}

if (import.meta.main) {
  const { values } = parseArgs({ options: { out: { type: 'string' }, watch: { type: 'boolean' } } })
  const root = join(import.meta.dirname, '..')
  const out = values.out === undefined ? join(root, 'dashboard', 'dist') : resolve(values.out)
  // What an earlier build left is no part of this one; a folder of somebody else's is left as it is.
  if (values.out === undefined) await rm(out, { recursive: true, force: true })
  await mkdir(out, { recursive: true })
  if (values.watch === true) await watchInto(root, out)
  else {
    await buildInto(root, out)
    console.log(`built into ${out}`)
  }
}
