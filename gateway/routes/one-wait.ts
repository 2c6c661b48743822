// Work that goes on behind a request's answer. Owns that the runtime is asked once to wait for all of it: a request has half a
// dozen such pieces, and each that the runtime itself waits for costs more than the count here.

/** A `waitUntil` of the request. A piece that is added while another one is under way shares its wait. */
export function oneWait(context: Pick<ExecutionContext, 'waitUntil'>): (work: Promise<unknown>) => void {
  let underWay = 0
  let over = () => {}
  return (work) => {
    if (underWay === 0) {
      const wait = Promise.withResolvers<void>()
      over = wait.resolve
      context.waitUntil(wait.promise)
    }
    underWay++
    const ended = () => {
      underWay--
      if (underWay === 0) over()
    }
    // The runtime reports what fails.
    work.then(ended, (error: unknown) => {
      context.waitUntil(Promise.reject(error))
      ended()
    })
  }
}
