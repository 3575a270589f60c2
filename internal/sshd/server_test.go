package sshd

import (
	"context"
	"crypto/ed25519"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/lastack/lastack/internal/console"
)

// pipes is a listener whose connections are made in the process.
type pipes struct {
	ch   chan net.Conn
	done chan struct{}
	once sync.Once
}

func newPipes() *pipes { return &pipes{ch: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.ch:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// dial connects.
func (p *pipes) dial() net.Conn {
	ours, theirs := net.Pipe()
	p.ch <- theirs
	b := &buffered{Conn: ours, ch: make(chan []byte, 1024), gone: make(chan struct{})}
	go b.write()
	return b
}

// buffered is a pipe's end whose writes don't wait for the reader: both sides of
// SSH begin with a write.
type buffered struct {
	net.Conn
	ch   chan []byte
	gone chan struct{}
	once sync.Once
}

func (b *buffered) write() {
	for {
		select {
		case p := <-b.ch:
			_, _ = b.Conn.Write(p) // or it was closed
		case <-b.gone:
			return
		}
	}
}

func (b *buffered) Write(p []byte) (int, error) {
	select {
	case b.ch <- append([]byte(nil), p...):
		return len(p), nil
	case <-b.gone:
		return 0, net.ErrClosed
	}
}

func (b *buffered) Close() error {
	b.once.Do(func() { close(b.gone) })
	return b.Conn.Close()
}

// closed reports whether the peer has closed, without a word or with its greeting.
func closed(c net.Conn) bool {
	defer c.Close()
	if err := c.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		return true
	}
	_, err := io.Copy(io.Discard, c)
	return err == nil
}

// echo is a command that says what it was asked for, and waits if told to.
type echo struct{}

func (echo) Run(ctx context.Context, words []string, s console.Streams) int {
	io.WriteString(s.Out, strings.Join(words, " "))
	if words[0] == "wait" {
		<-ctx.Done()
		io.WriteString(s.Out, " until told")
	}
	return len(words)
}

func (echo) Complete([]string) []string { return nil }

func signer(t *testing.T) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// serve makes a server behind pipes, and the key that may log in.
func serve(t *testing.T) (*Server, *pipes, ssh.Signer) {
	t.Helper()
	key := signer(t)
	s := New(Options{Host: signer(t), Commands: echo{}, Version: "1-test", Keys: func() []Key { return []Key{{key.PublicKey(), "me"}} }})
	p := newPipes()
	if err := s.Listen([]netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:22")}, func(netip.AddrPort) (net.Listener, error) { return p, nil }); err != nil {
		t.Fatal(err)
	}
	return s, p, key
}

func login(p *pipes, key ssh.Signer) (*ssh.Client, error) {
	c, chans, requests, err := ssh.NewClientConn(p.dial(), "box", &ssh.ClientConfig{
		User: User, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		return nil, err
	}
	return ssh.NewClient(c, chans, requests), nil
}

func TestPeersThatSayNothingAreFewAndLeaveAfterTheGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p, key := serve(t)
		var silent []net.Conn
		for range mostStarting {
			silent = append(silent, p.dial())
		}
		synctest.Wait()
		if !closed(p.dial()) {
			t.Errorf("a connection beside %d that have not logged in", mostStarting)
		}
		time.Sleep(loginGrace) // of the bubble
		synctest.Wait()
		for i, c := range silent {
			if !closed(c) {
				t.Errorf("silent connection %d is open after %v", i, loginGrace)
			}
		}
		c, err := login(p, key)
		if err != nil {
			t.Fatalf("no login when they have gone: %v", err)
		}
		synctest.Wait()
		count, now := s.Counters()
		if count.Full != 1 || count.Failed != mostStarting || count.LoggedIn != 1 || now != 1 {
			t.Errorf("got %+v and %d logged in", count, now)
		}
		c.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestThoseWhoAreLoggedInAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p, key := serve(t)
		var all []*ssh.Client
		for range mostConns {
			c, err := login(p, key)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, c)
		}
		synctest.Wait() // the server knows of the last one too
		if !closed(p.dial()) {
			t.Errorf("a connection beside %d", mostConns)
		}
		sessions := 0
		for range mostSessions + 1 {
			if one, err := all[0].NewSession(); err == nil && one.Start("wait") == nil {
				sessions++
			}
		}
		if sessions != mostSessions {
			t.Errorf("got %d sessions, want %d", sessions, mostSessions)
		}
		for _, c := range all {
			c.Close()
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestThoseWhoComeAtOnceAreBoundedToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p, key := serve(t)
		var all []*ssh.Client
		for range mostConns - 1 {
			c, err := login(p, key)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, c)
		}
		synctest.Wait()
		var starting []net.Conn
		for range mostStarting { // there is room for each of them
			starting = append(starting, p.dial())
		}
		synctest.Wait()
		var wg sync.WaitGroup
		for _, one := range starting {
			wg.Go(func() {
				c, chans, requests, err := ssh.NewClientConn(one, "box", &ssh.ClientConfig{
					User: User, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
				})
				if err != nil {
					return // refused at the end of its login
				}
				go ssh.DiscardRequests(requests)
				go func() {
					for ch := range chans {
						_ = ch.Reject(ssh.Prohibited, "")
					}
				}()
				_ = c.Wait()
			})
		}
		synctest.Wait()
		if count, now := s.Counters(); now != mostConns || count.LoggedIn != mostConns || count.Full != mostStarting-1 {
			t.Errorf("%d are logged in, want %d: %+v", now, mostConns, count)
		}
		for _, c := range all {
			c.Close()
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
}

func TestACommandSaysItsLastWordWhenTheServerCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p, key := serve(t)
		c, err := login(p, key)
		if err != nil {
			t.Fatal(err)
		}
		session, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		session.Stdout = &out
		if err := session.Start("wait here"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		err = session.Wait()
		if exit, ok := err.(*ssh.ExitError); !ok || exit.ExitStatus() != 2 || out.String() != "wait here until told" {
			t.Errorf("got %q and %v, want the command's last word and its status 2", out.String(), err)
		}
		c.Close()
	})
}
