// Waiting for something, and no longer than so long. Owns the wait and its end.
import { Appointment, type Appointments } from './appointments.ts'

/**
 * The promise's value if it comes in time; the promise itself goes on.
 * @param appointments Of the request that waits. Default: a timer for this wait alone.
 */
export function within<T>(promise: Promise<T>, ms: number, appointments?: Appointments): Promise<T | undefined> {
  return new Promise((resolve, reject) => {
    const late = () => resolve(undefined)
    const drop = appointments === undefined ? timer(late, ms) : appointment(late, ms, appointments)
    promise.then(
      (value) => {
        drop()
        resolve(value)
      },
      (error: unknown) => {
        drop()
        reject(error)
      },
    )
  })
}

function timer(act: () => void, ms: number): () => void {
  const handle = setTimeout(act, ms)
  return () => clearTimeout(handle)
}

function appointment(act: () => void, ms: number, appointments: Appointments): () => void {
  const one = new Appointment(act)
  appointments.set(one, ms)
  return () => appointments.drop(one)
}
