package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// roleServe is the first argument of the server's process.
const roleServe = "serve"

// What is asked and answered over HTTP. Both sides know the length.
const (
	request     = "GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
	lastRequest = "GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
	answer      = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
	lastAnswer  = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
)

// chunk is how much is sent or discarded by one call.
const (
	sendChunk    = 128 << 10
	discardChunk = 1 << 20
)

// counts is what a server says of itself when it is asked.
type counts struct {
	At    time.Duration `json:"at"`    // since it started
	Bytes int64         `json:"bytes"` // received on the bulk port
	Open  int64         `json:"open"`  // connections on the HTTP port
}

// server answers HTTP on one port and discards what it gets on another.
type server struct {
	poll       *poller
	http, bulk int // listeners
	kinds      []kind
	parts      map[int][]byte // of requests that came in pieces, by socket
	buf        []byte

	start time.Time
	bytes atomic.Int64
	open  atomic.Int64
}

// kind is what a file descriptor is for.
type kind byte

const (
	kindNone kind = iota
	kindHTTP
	kindBulk
)

// serveMain serves until standard input ends. Each line of that is answered
// with the counts.
func serveMain(args []string, stdout io.Writer) error {
	f := flag.NewFlagSet(roleServe, flag.ContinueOnError)
	web := f.String("http", "", "answer HTTP on `ADDRESS`")
	bulk := f.String("bulk", "", "discard what comes to `ADDRESS`")
	if err := f.Parse(args); err != nil {
		return err
	}
	runtime.GOMAXPROCS(2)
	s, err := newServer(*web, *bulk)
	if err != nil {
		return err
	}
	fmt.Fprintln(stdout, readyLine)
	go s.answerCounts(os.Stdin, stdout) // ends the process
	return s.loop()
}

func newServer(web, bulk string) (*server, error) {
	s := &server{parts: make(map[int][]byte), buf: make([]byte, 16<<10), start: time.Now()}
	var err1, err2, err3 error
	s.http, err1 = listen(web)
	s.bulk, err2 = listen(bulk)
	s.poll, err3 = newPoller()
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	return s, errors.Join(s.poll.add(s.http, s.http, unix.EPOLLIN), s.poll.add(s.bulk, s.bulk, unix.EPOLLIN))
}

// answerCounts answers each line until there are no more, and ends the process.
func (s *server) answerCounts(in io.Reader, out io.Writer) {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		c := counts{At: time.Since(s.start), Bytes: s.bytes.Load(), Open: s.open.Load()}
		if json.NewEncoder(out).Encode(c) != nil {
			break // who asked is gone
		}
	}
	os.Exit(0)
}

func (s *server) loop() error {
	for {
		events, err := s.poll.wait(-1)
		if err != nil {
			return err
		}
		for _, ev := range events {
			if err := s.serve(int(ev.Fd)); err != nil {
				return err
			}
		}
	}
}

func (s *server) serve(fd int) error {
	switch {
	case fd == s.http:
		return s.accept(fd, kindHTTP)
	case fd == s.bulk:
		return s.accept(fd, kindBulk)
	case s.kinds[fd] == kindHTTP:
		s.serveHTTP(fd)
	case s.kinds[fd] == kindBulk:
		s.serveBulk(fd)
	}
	return nil
}

// accept takes all connections that wait.
func (s *server) accept(listener int, k kind) error {
	for {
		r, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		switch errno {
		case 0:
		case unix.EAGAIN:
			return nil
		case unix.EINTR, unix.ECONNABORTED:
			continue
		default:
			return fmt.Errorf("accept: %w", errno)
		}
		if err := s.begin(int(r), k); err != nil {
			return err
		}
	}
}

func (s *server) begin(fd int, k kind) error {
	for fd >= len(s.kinds) {
		s.kinds = append(s.kinds, kindNone)
	}
	s.kinds[fd] = k
	if k == kindHTTP {
		s.open.Add(1)
	}
	return s.poll.add(fd, fd, unix.EPOLLIN)
}

func (s *server) end(fd int) {
	if s.kinds[fd] == kindHTTP {
		s.open.Add(-1)
	}
	s.kinds[fd] = kindNone
	delete(s.parts, fd)
	// Nothing is left to do if it fails, and nothing is lost.
	_ = unix.Close(fd)
}

// serveHTTP answers one request. Clients wait for the answer before they send
// the next, so what ends with an empty line is one request.
func (s *server) serveHTTP(fd int) {
	n, err := read(fd, s.buf)
	if again(err) {
		return
	}
	if err != nil || n == 0 {
		s.end(fd)
		return
	}
	got := s.buf[:n]
	if part, ok := s.parts[fd]; ok {
		got = append(part, got...)
		delete(s.parts, fd)
	}
	if !bytes.HasSuffix(got, []byte("\r\n\r\n")) {
		s.parts[fd] = bytes.Clone(got)
		return
	}
	s.reply(fd, bytes.Contains(got, []byte("Connection: close")))
}

func (s *server) reply(fd int, last bool) {
	text := answer
	if last {
		text = lastAnswer
	}
	n, err := write(fd, []byte(text))
	if last || err != nil || n < len(text) {
		s.end(fd)
	}
}

func (s *server) serveBulk(fd int) {
	n, err := discard(fd, discardChunk)
	if again(err) {
		return
	}
	if err != nil || n == 0 {
		s.end(fd)
		return
	}
	s.bytes.Add(int64(n))
}
