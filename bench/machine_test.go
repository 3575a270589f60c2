package main

import (
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestResidentMemoryIsRead(t *testing.T) {
	got, err := parseResident("Name:\thaproxy\nVmHWM:\t   99999 kB\nVmRSS:\t   12345 kB\nRssAnon:\t 1 kB\n")
	if want := int64(12345 << 10); err != nil || got != want {
		t.Errorf("got %d, %v, want %d", got, err, want)
	}
	if _, err := parseResident("Name:\tkthreadd\n"); err == nil {
		t.Error("got no error for a process without memory, want one")
	}
}

func TestKernelMemoryIsWhatNothingWouldGiveBack(t *testing.T) {
	got, err := parseKernel("MemTotal: 1000 kB\nCached: 200 kB\nSReclaimable: 20 kB\nSUnreclaim: 30 kB\nKernelStack: 4 kB\nPageTables: 5 kB\nPercpu: 1 kB\n")
	if want := int64(40 << 10); err != nil || got != want {
		t.Errorf("got %d, %v, want %d", got, err, want)
	}
	if _, err := parseKernel("SUnreclaim: 30 kB\n"); err == nil {
		t.Error("got no error for half of the file, want one")
	}
}

func TestCPUTimeIsReadBehindAnyName(t *testing.T) {
	got, err := parseCPUTime("42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 150 25 0 0 20 0 3 0 100\n")
	if want := 1750 * time.Millisecond; err != nil || got != want {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if _, err := parseCPUTime("42 (x) S 1"); err == nil {
		t.Error("got no error for a short line, want one")
	}
}

func TestHAProxyVersionIsFound(t *testing.T) {
	for line, want := range map[string]string{
		"HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/": "2.6.12",
		"HA-Proxy version 1.8.27 2020/11/06":                                 "1.8.27",
		"":                                                                   "of unknown version",
	} {
		if got := haproxyVersion(line); got != want {
			t.Errorf("got %q in %q, want %q", got, line, want)
		}
	}
}

func TestCPUModelIsFound(t *testing.T) {
	if got, want := cpuModel("processor\t: 0\nmodel name\t: AMD EPYC\n"), "AMD EPYC"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := cpuModel("processor\t: 0\nBogoMIPS\t: 50.00\n"), "unknown"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestIdleConnectionsFitTheLimitOfFiles(t *testing.T) {
	for _, files := range []uint64{4096, 5000, 12000, 20000, 1 << 20} {
		idle := idleWithin(files)
		if maxconn := uint64(idle + 1000); 2*maxconn+maxconn/2 > files {
			t.Errorf("got %d idle connections with %d files: HAProxy needs two for each of maxconn, and pipes", idle, files)
		}
	}
	if got, want := idleWithin(20000), 4000; got != want {
		t.Errorf("got %d with 20000 files, want %d", got, want)
	}
}

func TestCommandLineIsRead(t *testing.T) {
	o, err := parseOptions([]string{"-rounds", "3", "-seconds", "0.5", "-only", "stream,memory", "-v"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if o.rounds != 3 || o.length != 500*time.Millisecond || !o.verbose {
		t.Errorf("got %+v, want 3 rounds of 0.5 s, verbose", o)
	}
	for _, key := range experimentKeys() {
		if got, want := o.wants(key), key == "stream" || key == "memory"; got != want {
			t.Errorf("got %v for whether %s is wanted, want %v", got, key, want)
		}
	}
}

func TestMistakesOnTheCommandLineAreRefused(t *testing.T) {
	for wrong, want := range map[string]string{
		"-rounds 0":     "allowed are 1 to 1000",
		"-seconds 0.01": "allowed are 0.1 to 3600",
		"-seconds NaN":  "allowed are 0.1 to 3600",
		"-only speed":   "allowed are stream,streams",
		"stream":        "one too many",
	} {
		_, err := parseOptions(strings.Fields(wrong), io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v for %s, want an error with %q", err, wrong, want)
		}
	}
}

func TestLoadPassesThroughTheCommandLine(t *testing.T) {
	want := load{mode: modePaced, addr: "10.1.0.1:8080", conns: 64, warmup: time.Second, length: 1500 * time.Millisecond, rate: 1234.5}
	args := want.args()
	got, err := parseLoad(args[1:])
	if err != nil || got != want || args[0] != roleLoad {
		t.Errorf("got %+v, %v from %q, want %+v", got, err, args, want)
	}
}

func TestEachFigureHasAKeyOfItsOwn(t *testing.T) {
	var keys []string
	for _, e := range experiments {
		for _, f := range e.figures {
			if slices.Contains(keys, f.Key) {
				t.Errorf("got two figures called %q, want one", f.Key)
			}
			keys = append(keys, f.Key)
		}
	}
}
