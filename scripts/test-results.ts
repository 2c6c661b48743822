// Reads what test runners report about themselves. Owns the counting rules. Pure.
import { z } from 'zod'

export type Count = { passed: number; failed: number; skipped: number }

export const NOTHING: Count = { passed: 0, failed: 0, skipped: 0 }

const VitestReport = z.object({
  testResults: z.array(
    z.object({
      name: z.string(),
      status: z.string(),
      assertionResults: z.array(z.object({ status: z.string() })),
    }),
  ),
})

/** The sum over suites. */
export function sum(counts: Count[]): Count {
  return counts.reduce(
    (total, count) => ({
      passed: total.passed + count.passed,
      failed: total.failed + count.failed,
      skipped: total.skipped + count.skipped,
    }),
    NOTHING,
  )
}

/**
 * Vitest's JSON report. A file that could not be loaded has no tests and counts as one failure; so does an exit code that
 * says failure where no test failed (an error outside of any test), and a report that is missing.
 */
export function countVitest(report: string, exitCode: number): Count {
  const parsed = parseJson(report)
  if (parsed === undefined) return { ...NOTHING, failed: 1 }
  const count = { ...NOTHING }
  for (const file of parsed.testResults) {
    for (const { status } of file.assertionResults) {
      if (status === 'passed') count.passed++
      else if (status === 'failed') count.failed++
      else count.skipped++
    }
    if (file.status === 'failed' && !file.assertionResults.some(({ status }) => status === 'failed')) count.failed++
  }
  return withExitCode(count, exitCode)
}

/** ctest's JUnit report: the attributes of its one `<testsuite>`. */
export function countCtest(report: string, exitCode: number): Count {
  const head = /<testsuite\b[^>]*>/.exec(report)?.[0]
  if (head === undefined) return { ...NOTHING, failed: 1 }
  const attribute = (name: string) => Number(new RegExp(`\\b${name}="(\\d+)"`).exec(head)?.[1] ?? 0)
  const failed = attribute('failures') + attribute('errors')
  const skipped = attribute('skipped') + attribute('disabled')
  return withExitCode({ passed: attribute('tests') - failed - skipped, failed, skipped }, exitCode)
}

function withExitCode(count: Count, exitCode: number): Count {
  return exitCode !== 0 && count.failed === 0 ? { ...count, failed: 1 } : count
}

function parseJson(text: string): z.infer<typeof VitestReport> | undefined {
  try {
    return VitestReport.parse(JSON.parse(text))
  } catch {
    return undefined
  }
}
