// The configuration of a plain `workerd serve`, made out of wrangler.toml. Owns the translation; wrangler.toml is the
// one description of the gateway. Pure: texts in, text out.
import { extname } from 'node:path'
import { parse } from 'smol-toml'
import { z } from 'zod'

export type WorkerdInputs = {
  /** The text of wrangler.toml. */
  wranglerToml: string
  /** Modules of the bundle: name as imported, path relative to the configuration file. The first one is the entry. */
  modules: { name: string; path: string }[]
  /** Environment variables of workerd that become bindings of the same name. */
  secrets: string[]
  /** Where Durable Objects keep their SQLite files; absolute. */
  storageDir: string
  /** e.g. 127.0.0.1:8787 */
  address: string
  /** The built dashboard; absolute. Absent: the gateway says that it is not built. */
  assetsDir?: string
}

/** The parts of wrangler.toml that mean something off Cloudflare. Others (limits, observability) are Cloudflare's own. */
const Wrangler = z.object({
  name: z.string().regex(/^[a-z0-9-]+$/),
  compatibility_date: z.string().regex(/^\d{4}-\d{2}-\d{2}$/),
  compatibility_flags: z.array(z.string()).default([]),
  vars: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])).default({}),
  durable_objects: z
    .object({ bindings: z.array(z.object({ name: z.string(), class_name: z.string() })) })
    .default({ bindings: [] }),
  assets: z.object({ binding: z.string() }).optional(),
  migrations: z.array(z.object({ new_sqlite_classes: z.array(z.string()).default([]) })).default([]),
})

/** How a file of the bundle is loaded, by its ending; wrangler writes no others for our sources. */
const MODULE_KINDS: Record<string, string> = {
  '.js': 'esModule',
  '.mjs': 'esModule',
  '.wasm': 'wasm',
  '.txt': 'text',
  '.html': 'text',
  '.bin': 'data',
}

/**
 * Room for what is young from the beginning on, in MiB: V8 gets there by itself under load, and until then it collects what dies
 * anyway many times, at a cold start too.
 */
export const V8_FLAGS = ['--min-semi-space-size=16']

/** Where nothing is ever served to a gateway: link-local addresses and those where cloud machines hand out credentials, NAT64's too. */
const NEVER = [
  '0.0.0.0/8',
  '169.254.0.0/16',
  '168.63.129.16/32',
  '100.100.100.200/32',
  '224.0.0.0/4',
  'fe80::/10',
  'fd00:ec2::/32',
  'fd20:ce::254/128',
  'ff00::/8',
  '64:ff9b::a83f:8110/128',
  '64:ff9b::a9fe:0/112',
]
/**
 * What workerd takes for public beside its own list of private ranges: benchmarking, site-local addresses, and IPv6 that is a way to
 * an IPv4 address.
 * Of the well-known prefix of NAT64 (RFC 6052) only what is private behind it: in a network without IPv4 it leads to everything.
 */
const NOT_PUBLIC = [
  '192.0.0.0/24',
  '198.18.0.0/15',
  'fec0::/10',
  '::/96',
  '::ffff:0:0:0/96',
  '2001::/32',
  '2002::/16',
  '64:ff9b:1::/48',
  '64:ff9b::/104',
  '64:ff9b::a00:0/104',
  '64:ff9b::6440:0/106',
  '64:ff9b::7f00:0/104',
  '64:ff9b::ac10:0/108',
  '64:ff9b::c0a8:0/112',
]

/** By which the command line names the socket that callers come in by. */
export const SOCKET_NAME = 'http'

/** @throws Error naming what in wrangler.toml cannot be served by workerd. */
export function workerdConfig(inputs: WorkerdInputs): string {
  const wrangler = Wrangler.parse(parse(inputs.wranglerToml))
  const classes = [...new Set(wrangler.durable_objects.bindings.map((binding) => binding.class_name))]
  const sqlite = new Set(wrangler.migrations.flatMap((migration) => migration.new_sqlite_classes))
  for (const name of classes) {
    if (!sqlite.has(name)) throw new Error(`wrangler.toml: class ${name} has no SQLite storage (new_sqlite_classes)`)
  }
  const modules = inputs.modules.map(({ name, path }) => {
    const kind = MODULE_KINDS[extname(path)]
    if (kind === undefined) throw new Error(`no way to load ${path} in workerd`)
    return `(name = ${quote(name)}, ${kind} = embed ${quote(path)})`
  })
  const assets = inputs.assetsDir === undefined ? undefined : wrangler.assets
  const bindings = [
    ...wrangler.durable_objects.bindings.map(
      ({ name, class_name }) => `(name = ${quote(name)}, durableObjectNamespace = ${quote(class_name)})`,
    ),
    ...Object.entries(wrangler.vars).map(([name, value]) =>
      typeof value === 'string'
        ? `(name = ${quote(name)}, text = ${quote(value)})`
        : `(name = ${quote(name)}, json = ${quote(JSON.stringify(value))})`,
    ),
    ...(assets === undefined ? [] : [`(name = ${quote(assets.binding)}, service = "assets")`]),
    '(name = "INTERNET", service = "internet")',
    ...inputs.secrets.map((name) => `(name = ${quote(name)}, fromEnvironment = ${quote(name)})`),
  ]
  // The key of a class is part of the identity of its objects: it must never change, or their storage is lost.
  const namespaces = classes.map(
    (name) => `(className = ${quote(name)}, uniqueKey = ${quote(`${wrangler.name}-${name}`)}, enableSql = true)`,
  )
  return `# Generated from wrangler.toml by scripts/workerd-config.ts at each start; changes here are lost.
using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [
    (name = "gateway", worker = .gateway),
    # Backends and Postgres are on private addresses; which hosts are called is decided in the gateway, never by a caller.
    ${network('outside', ['public', 'private'], NEVER)},
    # What a public name resolves to is checked where the connection is made, so that no name leads inside, today or tomorrow.
    ${network('internet', ['public'], [...NEVER, ...NOT_PUBLIC])},
    (name = "objects", disk = (path = ${quote(inputs.storageDir)}, writable = true)),${
      assets === undefined ? '' : `\n    (name = "assets", disk = (path = ${quote(inputs.assetsDir ?? '')})),`
    }
  ],
  sockets = [(name = ${quote(SOCKET_NAME)}, address = ${quote(inputs.address)}, http = (), service = "gateway")],
  v8Flags = [${V8_FLAGS.map(quote).join(', ')}],
);

const gateway :Workerd.Worker = (
  modules = [${list(modules)}],
  compatibilityDate = ${quote(wrangler.compatibility_date)},
  compatibilityFlags = [${list(wrangler.compatibility_flags.map(quote))}],
  bindings = [${list(bindings)}],
  durableObjectNamespaces = [${list(namespaces)}],
  durableObjectStorage = (localDisk = "objects"),
  globalOutbound = "outside",
);
`
}

/** Cap'n Proto text has C's string escapes. */
function quote(text: string): string {
  let quoted = ''
  for (const char of text) {
    const code = char.codePointAt(0) ?? 0
    if (char === '"' || char === '\\') quoted += `\\${char}`
    else if (char === '\n') quoted += '\\n'
    else if (code < 0x20 || code === 0x7f) quoted += `\\x${code.toString(16).padStart(2, '0')}`
    else quoted += char
  }
  return `"${quoted}"`
}

function network(name: string, allow: string[], deny: string[]): string {
  const quoted = (items: string[]) => items.map(quote).join(', ')
  const addresses = `allow = [${quoted(allow)}], deny = [${quoted(deny)}]`
  return `(name = ${quote(name)}, network = (${addresses}, tlsOptions = (trustBrowserCas = true)))`
}

function list(items: string[]): string {
  return items.length === 0 ? '' : `\n${items.map((item) => `    ${item},\n`).join('')}  `
}
