// What the gateway uses of the runtime's own node:crypto. Owns its types: those of Node are not loaded for the gateway, which
// runs where most of Node is missing.
declare module 'node:crypto' {
  type Hash = { update(text: string): Hash; digest(encoding: 'hex'): string }
  export function createHash(algorithm: 'sha256'): Hash
}
