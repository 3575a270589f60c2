package netif

import (
	"os"
	"strings"
	"testing"
)

func TestAProcessWithoutMemoryHoldsNoCard(t *testing.T) {
	me, err := self()
	if err != nil {
		t.Fatal(err)
	}
	if !alive(me) {
		t.Error("this process is taken for dead")
	}
	me.Start++
	if alive(me) {
		t.Error("another process of the same number is taken for this one")
	}
	// A thread of the kernel looks as a process that is about to be a zombie.
	const kthreadd = 2
	if name, err := os.ReadFile("/proc/2/comm"); err != nil || strings.TrimSpace(string(name)) != "kthreadd" {
		t.Skip("process 2 is no thread of the kernel here: a namespace of process numbers")
	}
	start, runs, err := procStat(kthreadd)
	if err != nil || runs || alive(process{PID: kthreadd, Start: start}) {
		t.Errorf("a process without memory: runs %v, %v; want that it does not", runs, err)
	}
}
