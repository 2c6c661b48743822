import { describe, expect, test } from 'vitest'
import { countCtest, countVitest, sum } from '../../../scripts/test-results.ts'

const report = (files: { status: string; tests: string[] }[]) =>
  JSON.stringify({
    testResults: files.map(({ status, tests }, index) => ({
      name: `${index}.test.ts`,
      status,
      assertionResults: tests.map((state) => ({ status: state })),
    })),
  })

describe('of the report of vitest', () => {
  test('tests are counted by how they ended', () => {
    const text = report([
      { status: 'passed', tests: ['passed', 'passed', 'skipped'] },
      { status: 'failed', tests: ['passed', 'failed'] },
    ])
    expect(countVitest(text, 1)).toMatchObject({ passed: 3, failed: 1, skipped: 1 })
  })

  test('a file that could not be loaded is a failure', () => {
    expect(countVitest(report([{ status: 'failed', tests: [] }]), 1)).toMatchObject({
      passed: 0,
      failed: 1,
      skipped: 0,
    })
  })

  test('failures are named with the first line of why', () => {
    const text = JSON.stringify({
      testResults: [
        {
          name: 'a.test.ts',
          status: 'failed',
          assertionResults: [
            {
              status: 'failed',
              fullName: 'adds up',
              failureMessages: ['AssertionError: expected 1 to be 2\n    at x'],
            },
          ],
        },
        { name: 'b.test.ts', status: 'failed', message: 'SyntaxError: no\nmore', assertionResults: [] },
      ],
    })
    expect(countVitest(text, 1).failures).toEqual([
      'a.test.ts > adds up: AssertionError: expected 1 to be 2',
      'b.test.ts: SyntaxError: no',
    ])
  })

  test('an error outside of any test is a failure', () => {
    expect(countVitest(report([{ status: 'passed', tests: ['passed'] }]), 1)).toMatchObject({
      passed: 1,
      failed: 1,
      skipped: 0,
    })
  })

  test.each(['', 'no json', '{}'])('a report that is not there (%j) is a failure', (text) => {
    expect(countVitest(text, 0)).toMatchObject({ passed: 0, failed: 1, skipped: 0 })
  })

  test('no tests are no tests', () => {
    expect(countVitest(report([]), 0)).toMatchObject({ passed: 0, failed: 0, skipped: 0 })
  })
})

describe('of the report of ctest', () => {
  const xml = (attributes: string) =>
    `<?xml version="1.0"?>\n<testsuite name="x"\n\t${attributes}\n>\n<testcase/></testsuite>`

  test('tests are counted by how they ended', () => {
    expect(countCtest(xml('tests="10" failures="2" disabled="1" skipped="3"'), 8)).toMatchObject({
      passed: 4,
      failed: 2,
      skipped: 4,
    })
  })

  test('failures are named', () => {
    const cases = '<testcase name="A.B" status="run"/><testcase name="C.D/0" classname="C.D/0" time="1" status="fail">'
    const text = `<testsuite tests="2" failures="1">${cases}</testcase></testsuite>`
    expect(countCtest(text, 8)).toEqual({ passed: 1, failed: 1, skipped: 0, failures: ['C.D/0'] })
  })

  test('a report that is not there is a failure', () => {
    expect(countCtest('', 0)).toMatchObject({ passed: 0, failed: 1, skipped: 0 })
  })

  test('an exit code of failure is one', () => {
    expect(countCtest(xml('tests="1" failures="0"'), 1)).toMatchObject({ passed: 1, failed: 1, skipped: 0 })
  })
})

test('the sum is over all suites', () => {
  expect(
    sum([
      { passed: 1, failed: 2, skipped: 3, failures: ['a', 'b'] },
      { passed: 10, failed: 20, skipped: 30, failures: [] },
    ]),
  ).toMatchObject({
    passed: 11,
    failed: 22,
    skipped: 33,
    failures: ['a', 'b'],
  })
})
