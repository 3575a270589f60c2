// Package labtest gives tests the laboratory of package lab: Main enters the
// namespaces before the first test and looks for goroutines left over after
// the last; Host, Wire and the others fail the test themselves and clean up.
//
// Where namespaces can't be had, tests that ask for a Host are skipped with
// the reason; with APPLIANCE_TEST=require in the environment the whole run
// fails instead, so that a skip can't hide a failure.
package labtest
