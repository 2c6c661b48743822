// What is loaded by the first who asks for it. Owns that all who ask share one load, and that a failure is not remembered.

/** One that failed is tried again for the next who asks: an object or isolate that lives for days must not keep it. */
export function loadedOnce<T>(load: () => Promise<T>): () => Promise<T> {
  let loaded: Promise<T> | undefined
  return () => {
    loaded ??= load().catch((error: unknown) => {
      loaded = undefined
      throw error
    })
    return loaded
  }
}
