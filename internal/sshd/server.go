package sshd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/lastack/lastack/internal/console"
)

// User is the only name that may log in.
const User = "admin"

// Bounds of what strangers and friends may cost.
const (
	mostConns    = 16               // logged in at once
	mostStarting = 8                // not logged in yet
	loginGrace   = 20 * time.Second // for the handshake and the login
	mostTries    = 6                // keys that one connection may offer
	mostSessions = 8                // of one connection
)

// Options say what a Server serves.
type Options struct {
	Host     ssh.Signer
	Keys     func() []Key // who may log in at this moment
	Commands console.Commands
	Prompt   string // before each line of an interactive session
	Version  string // told in the greeting; no spaces
	Log      *slog.Logger
}

// Key is one who may log in.
type Key struct {
	Key  ssh.PublicKey
	Name string // the comment behind it
}

// Counters count what a Server did since its start.
type Counters struct {
	Accepted  uint64 `json:"accepted"`
	LoggedIn  uint64 `json:"logged_in"`
	Failed    uint64 `json:"failed"`    // connections that did not log in
	Throttled uint64 `json:"throttled"` // refused for failures before
	Full      uint64 `json:"full"`      // refused for want of room
	Commands  uint64 `json:"commands"`
}

// Server accepts connections on any number of listeners.
type Server struct {
	o        Options
	throttle *throttle
	conns    sync.WaitGroup
	count    struct{ accepted, loggedIn, failed, throttled, full, commands atomic.Uint64 }

	mu        sync.Mutex // guards the rest
	listeners map[netip.AddrPort]net.Listener
	live      map[*conn]bool
	starting  int
	closed    bool
}

// conn is one connection.
type conn struct {
	net.Conn
	cancel context.CancelFunc // ends its commands
	gone   chan struct{}      // closed at its end
	ssh    *ssh.ServerConn    // nil before the login; guarded by Server.mu
}

// New makes a server without listeners.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{o: o, throttle: newThrottle(), listeners: make(map[netip.AddrPort]net.Listener), live: make(map[*conn]bool)}
}

// Listen makes the server accept at exactly these addresses: listeners elsewhere
// are closed, connections go on. open makes a listener; those that can't be made
// are named in the error.
func (s *Server) Listen(addrs []netip.AddrPort, open func(netip.AddrPort) (net.Listener, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	want := make(map[netip.AddrPort]bool)
	var errs []error
	for _, a := range addrs {
		want[a] = true
		if s.listeners[a] != nil {
			continue
		}
		l, err := open(a)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.listeners[a] = l
		s.conns.Go(func() { s.accept(l) })
	}
	for a, l := range s.listeners {
		if !want[a] {
			delete(s.listeners, a)
			errs = append(errs, l.Close())
		}
	}
	return errors.Join(errs...)
}

func (s *Server) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.o.Log.Warn("a connection for SSH was not accepted", "error", err)
			time.Sleep(100 * time.Millisecond) // what it wants for may come back
			continue
		}
		s.count.accepted.Add(1)
		s.admit(c)
	}
}

// admit makes a connection ours, if there is room and its peer behaves.
func (s *Server) admit(c net.Conn) {
	ctx, cancel := context.WithCancel(context.Background())
	one := &conn{Conn: c, cancel: cancel, gone: make(chan struct{})}
	refused := s.reserve(one)
	if refused {
		cancel()
		if a, ok := c.(aborter); ok {
			a.Abort() // in order it would take room that there isn't
			return
		}
		_ = c.Close() // nobody has read or written anything
		return
	}
	s.conns.Go(func() {
		defer s.release(one)
		s.serve(ctx, one)
	})
}

// loggedIn counts those who are, with mu held.
func (s *Server) loggedIn() int { return len(s.live) - s.starting }

func (s *Server) reserve(one *conn) (refused bool) {
	if !s.throttle.allows(one.RemoteAddr(), time.Now()) {
		s.count.throttled.Add(1)
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.starting >= mostStarting || s.loggedIn() >= mostConns {
		s.count.full.Add(1)
		return true
	}
	s.starting++
	s.live[one] = true
	return false
}

func (s *Server) release(one *conn) {
	one.cancel()
	_ = one.Close() // its peer may have gone
	s.mu.Lock()
	defer s.mu.Unlock()
	if one.ssh == nil {
		s.starting--
	}
	delete(s.live, one)
	close(one.gone)
}

// enter makes a connection one of those that are logged in. There may have been room when
// it came that others have taken, who came at the same time.
func (s *Server) enter(one *conn, sc *ssh.ServerConn) (room bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.loggedIn() >= mostConns {
		s.count.full.Add(1)
		return false
	}
	s.starting--
	one.ssh = sc
	return true
}

// serve does the handshake, and then what the client asks for.
func (s *Server) serve(ctx context.Context, one *conn) {
	deadline := time.AfterFunc(loginGrace, func() { _ = one.Close() }) // the handshake ends with it
	from := one.RemoteAddr()
	sc, chans, requests, err := ssh.NewServerConn(one, s.config())
	deadline.Stop()
	if err != nil {
		s.count.failed.Add(1)
		s.throttle.failed(from, time.Now())
		s.o.Log.Info("a login by SSH has failed", "from", from, "error", err)
		return
	}
	if !s.enter(one, sc) {
		s.o.Log.Info("a login by SSH was refused: as many as may are logged in", "from", from, "most", mostConns)
		return
	}
	s.count.loggedIn.Add(1)
	name := sc.Permissions.Extensions["name"]
	s.o.Log.Info("logged in by SSH", "from", from, "key", name)
	begun := time.Now()
	var all sync.WaitGroup
	all.Go(func() { ssh.DiscardRequests(requests) }) // forwarding among them: all are refused
	var n atomic.Int32
	for ch := range chans {
		if ch.ChannelType() != "session" {
			_ = ch.Reject(ssh.Prohibited, "the appliance has commands only: nothing is forwarded") // the peer may have gone
			continue
		}
		if n.Add(1) > mostSessions {
			n.Add(-1)
			_ = ch.Reject(ssh.ResourceShortage, fmt.Sprintf("a connection has at most %d sessions", mostSessions))
			continue
		}
		all.Go(func() {
			defer n.Add(-1)
			s.session(ctx, ch, name)
		})
	}
	one.cancel()
	all.Wait()
	s.o.Log.Info("logged out of SSH", "from", from, "key", name, "after", time.Since(begun).Round(time.Millisecond))
}

var errNoKey = errors.New("this key is not among those that may log in")

func (s *Server) config() *ssh.ServerConfig {
	c := &ssh.ServerConfig{
		ServerVersion: "SSH-2.0-Lastack_" + strings.ReplaceAll(s.o.Version, "-", "_"),
		MaxAuthTries:  mostTries,
		PublicKeyCallback: func(meta ssh.ConnMetadata, offered ssh.PublicKey) (*ssh.Permissions, error) {
			if meta.User() != User {
				return nil, fmt.Errorf("there is no user %q: log in as %s", meta.User(), User)
			}
			for _, k := range s.o.Keys() {
				if string(k.Key.Marshal()) == string(offered.Marshal()) {
					name := k.Name
					if name == "" {
						name = ssh.FingerprintSHA256(k.Key)
					}
					return &ssh.Permissions{Extensions: map[string]string{"name": name}}, nil
				}
			}
			return nil, errNoKey
		},
	}
	c.AddHostKey(s.o.Host)
	return c
}

// Counters are the totals, and how many are logged in now.
func (s *Server) Counters() (c Counters, now int) {
	c = Counters{
		Accepted: s.count.accepted.Load(), LoggedIn: s.count.loggedIn.Load(), Failed: s.count.failed.Load(),
		Throttled: s.count.throttled.Load(), Full: s.count.full.Load(), Commands: s.count.commands.Load(),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return c, s.loggedIn()
}

// aborter is a connection that can be ended with RST.
type aborter interface{ Abort() }

// endWithin is how long connections may take to end in order.
const endWithin = time.Second

// HangUp ends all connections, or those that only chooses, and waits. Their
// commands end first, so that they say what they have to say.
func (s *Server) HangUp(only func(local net.Addr) bool) {
	s.mu.Lock()
	var all []*conn
	for one := range s.live {
		if only == nil || only(one.LocalAddr()) {
			all = append(all, one)
		}
	}
	s.mu.Unlock()
	for _, one := range all {
		one.cancel()
	}
	end := time.NewTimer(endWithin)
	defer end.Stop()
	for _, one := range all {
		s.conns.Go(func() { s.end(one) })
	}
	for _, one := range all {
		select {
		case <-one.gone:
		case <-end.C:
			for _, one := range all {
				if a, ok := one.Conn.(aborter); ok {
					a.Abort()
				}
			}
			return
		}
	}
}

// lastWords is how long a command may write after its end was asked for.
const lastWords = 200 * time.Millisecond

func (s *Server) end(one *conn) {
	timer := time.NewTimer(lastWords)
	defer timer.Stop()
	select {
	case <-one.gone:
		return
	case <-timer.C:
	}
	_ = one.Close() // it is over whatever comes
}

// Close ends the listeners and the connections, and waits. It is idempotent.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	var errs []error
	for a, l := range s.listeners {
		delete(s.listeners, a)
		errs = append(errs, l.Close())
	}
	s.mu.Unlock()
	s.HangUp(nil)
	s.conns.Wait()
	return errors.Join(errs...)
}
