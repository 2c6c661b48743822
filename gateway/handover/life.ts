// Where this process stands in its life: it has the objects, or has left them to the process that follows it on the same data folder.
// Owns the stages, which objects are here, and what is still at work in them. Only `workerd serve` under a launcher ever leaves.
//
//   serving ──prepare──▶ its background responses end, new ones wait ──leave──▶ its open streams end, with the objects elsewhere
//
// Module state on purpose: requests and objects of one process share it.

/** An object as it can be reached again. */
export type ObjectPlace = { namespace: string; id: string }

/** Where the objects are instead, and until when streams may go on here. */
export type Leaving = { origin: string; drainEndsAtMs: number }

class Life {
  readonly #objects = new Map<string, ObjectPlace & { alive: WeakRef<object> }>()
  #defersRuns = false
  #leaving: Leaving | undefined
  #calls = 0
  #runs = 0

  /** Background responses that come now are kept and begun by the next process. */
  get defersRuns(): boolean {
    return this.#defersRuns
  }
  /** Undefined: the objects are here. */
  get leaving(): Leaving | undefined {
    return this.#leaving
  }
  /** Calls of objects that are under way. */
  get calls(): number {
    return this.#calls
  }
  /** Background responses that run. */
  get runs(): number {
    return this.#runs
  }
  /** Objects that were made here and may not be gone yet. */
  get objects(): ObjectPlace[] {
    return [...this.#objects.values()].flatMap(({ namespace, id, alive }) =>
      alive.deref() === undefined ? [] : [{ namespace, id }],
    )
  }

  prepare(): void {
    this.#defersRuns = true
  }
  leave(leaving: Leaving): void {
    this.#defersRuns = true
    this.#leaving = leaving
  }

  /**
   * An object begins its life here, as `object`. @throws Error where its storage belongs to the next process: an alarm that was set here
   * fires there as well
   */
  enter(place: ObjectPlace, object: object): void {
    if (this.#leaving !== undefined) throw new Error('the objects of this process were handed over')
    this.#objects.set(`${place.namespace} ${place.id}`, { ...place, alive: new WeakRef(object) })
  }

  async counted<T>(call: () => Promise<T>): Promise<T> {
    this.#calls++
    try {
      return await call()
    } finally {
      this.#calls--
    }
  }
  runBegan(): void {
    this.#runs++
  }
  runEnded(): void {
    this.#runs--
  }

  /** The time that open streams had after a restart is over. */
  isOverdue(nowMs: number): boolean {
    return this.#leaving !== undefined && nowMs >= this.#leaving.drainEndsAtMs
  }
}

export const life = new Life()
