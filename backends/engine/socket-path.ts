// Where the engine's Unix socket lies. Owns finding a path short enough for the kernel, in a directory of our own.
import { mkdirSync, mkdtempSync, readdirSync, rmdirSync, rmSync, unlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** sockaddr_un.sun_path holds 108 bytes with the terminating zero. */
const SOCKET_PATH_BYTES_MAX = 107

const DIRECTORY_PREFIX = 'engine-sockets-'
const DIRECTORY_NAME = /^engine-sockets-\w{6}$/
const SOCKET_NAME = /^engine-\d+\.sock$/

export type SocketDirectory = {
  /** A path that no earlier engine used, so that a dying one cannot answer for its successor. */
  next: () => string
  remove: () => void
}

/**
 * Makes a private directory (mode 0700) under `stateDir`, or under the system's temporary one where that path is too long.
 * @throws Error where neither is short enough.
 */
export function createSocketDirectory(stateDir: string): SocketDirectory {
  mkdirSync(stateDir, { recursive: true, mode: 0o700 })
  removeStale(stateDir)
  const name = (directory: string, count: number) => join(directory, `engine-${count}.sock`)
  for (const parent of [stateDir, tmpdir()]) {
    const prefix = join(parent, DIRECTORY_PREFIX)
    // mkdtemp adds six characters; the largest count is generous.
    if (Buffer.byteLength(name(`${prefix}XXXXXX`, 999_999)) > SOCKET_PATH_BYTES_MAX) continue
    const directory = mkdtempSync(prefix)
    let count = 0
    return {
      next: () => name(directory, ++count),
      remove: () => rmSync(directory, { recursive: true, force: true }),
    }
  }
  throw new Error(
    `no path for the engine's socket within ${SOCKET_PATH_BYTES_MAX} bytes under ${stateDir} or ${tmpdir()}`,
  )
}

/** An agent that was killed leaves its directory behind; nothing but our own sockets is removed. */
function removeStale(stateDir: string): void {
  for (const entry of readdirSync(stateDir, { withFileTypes: true })) {
    if (!entry.isDirectory() || !DIRECTORY_NAME.test(entry.name)) continue
    const directory = join(stateDir, entry.name)
    try {
      for (const file of readdirSync(directory)) if (SOCKET_NAME.test(file)) unlinkSync(join(directory, file))
      rmdirSync(directory)
    } catch {
      // Something else lies in it: not ours to remove.
    }
  }
}
