// Package console is the appliance's command line for who is not on the box: a
// Prompt on a terminal, which a channel of SSH or a serial line may be, and the
// split of one line into words. What the commands are, is its Commands' matter:
// there is no shell behind it.
//
// A Prompt has one goroutine that reads while Run runs. It ends with its input,
// which Run's caller closes.
package console
