// Which engines a machine gets when nobody says. Owns the choice; what the roles mean is protocol/capacity.ts.
import { readdir, stat } from 'node:fs/promises'
import { availableParallelism, freemem } from 'node:os'
import { join } from 'node:path'

const MIB = 1024 * 1024
/** The engine's own default. */
const KV_MIB = 512
/** Beside its weights and its KV cache: what a step computes in, the grammar's tables, the program. */
const ENGINE_BYTES = 256 * MIB
/** Of what is free: the rest of the system grows too. */
const SHARE = 0.7

export const TWO = 'prefill,decode'
export const ONE = 'both'

/** The slice of a machine that the choice depends on. */
export type Room = { cores: number; freeBytes: number; weightBytes: number; kvBytes: number }

/**
 * Two engines, so that the answers of others go on evenly while a long prompt is computed; one where they would have to share
 * a core, or where the weights do not fit twice.
 */
export function rolesFor({ cores, freeBytes, weightBytes, kvBytes }: Room): string {
  const needed = 2 * (weightBytes + kvBytes + ENGINE_BYTES)
  return cores >= 2 && needed <= freeBytes * SHARE ? TWO : ONE
}

/** @param modelPath a file, or a folder of weights. */
export async function defaultRoles(modelPath: string, options: { kvMib?: number; threads?: number }): Promise<string> {
  return rolesFor({
    cores: availableParallelism(),
    freeBytes: freemem(),
    weightBytes: await sizeOf(modelPath),
    kvBytes: (options.kvMib ?? KV_MIB) * MIB,
  })
}

async function sizeOf(path: string): Promise<number> {
  const found = await stat(path)
  if (!found.isDirectory()) return found.size
  const sizes = await Promise.all(
    (await readdir(path)).filter((name) => /\.(safetensors|gguf)$/.test(name)).map((name) => stat(join(path, name))),
  )
  return sizes.reduce((sum, { size }) => sum + size, 0)
}
