package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/lastack/lastack/services"
)

// Server answers on a unix socket until Close, which is idempotent.
type Server struct {
	http     http.Server
	listener net.Listener // nil between Withdraw and Return
	wg       sync.WaitGroup
	log      *slog.Logger
	rest     sync.RWMutex // read-locked by every answer but that of an upgrade
	gone     error        // why nothing is answered any more: errMoved or errSuspended; guarded by rest
}

// What was asked while everything rested, and cannot be answered here any more.
var (
	errMoved     = errors.New("another process has taken this one's place: ask again")
	errSuspended = errors.New("the appliance was suspended before it could answer: nothing is changed")
)

// Free reports whether a daemon could take the socket: it fails if another
// one answers there already.
func Free(socket string) error {
	c, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return nil // nobody there, or something Listen will name
	}
	// The result of closing a probe says nothing.
	_ = c.Close()
	return fmt.Errorf("another appliance answers at %s already: stop it first, or give this one a different admin.socket", socket)
}

// Serve listens on socket, makes its directory if need be, and answers from
// src. A socket left over from a crash is replaced.
func Serve(socket string, src Source, log *slog.Logger) (*Server, error) {
	if err := Free(socket); err != nil {
		return nil, err
	}
	l, err := listen(socket)
	if err != nil {
		return nil, fmt.Errorf("listen on the admin socket: %w", err)
	}
	s := &Server{log: log}
	s.http = http.Server{Handler: s.atRest(routes(src)), ReadHeaderTimeout: 5 * time.Second}
	s.serve(l)
	return s, nil
}

func (s *Server) serve(l net.Listener) {
	s.listener = l
	s.wg.Go(func() {
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			s.log.Error("the admin socket does not answer any more", "socket", l.Addr(), "error", err)
		}
	})
}

func listen(socket string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return nil, err
	}
	if fi, err := os.Lstat(socket); err == nil {
		if fi.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("%s exists and is not a socket", socket)
		}
		if err := os.Remove(socket); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("unix", socket)
	if errors.Is(err, syscall.EINVAL) && len(socket) > 107 {
		return nil, fmt.Errorf("%s is longer than the 107 bytes a unix socket's path may have", socket)
	}
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// fetchPath is where what a URL names comes through.
const fetchPath = "/v1/fetch"

// fetch passes on what Fetch yields. If it breaks off, so does the answer.
func fetch(w http.ResponseWriter, r *http.Request, src Source) {
	body, size, err := src.Fetch(r.Context(), r.FormValue("url"))
	if err != nil {
		refuse(w, err)
		return
	}
	defer body.Close()
	if size >= 0 {
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	}
	if _, err := io.Copy(w, body); err != nil {
		panic(http.ErrAbortHandler) // the reader must not take it for the whole
	}
}

func routes(src Source) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { reply(w, src.Status()) })
	mux.HandleFunc("GET /v1/conns", func(w http.ResponseWriter, _ *http.Request) { reply(w, src.Conns()) })
	mux.HandleFunc("GET /v1/conns/ended", func(w http.ResponseWriter, _ *http.Request) { reply(w, src.Ended()) })
	mux.HandleFunc("GET /v1/flows", func(w http.ResponseWriter, _ *http.Request) { reply(w, src.Flows()) })
	mux.HandleFunc("GET /v1/conns/{id}", withID(func(w http.ResponseWriter, _ *http.Request, id uint64) {
		if c, ok := find(src, id); ok {
			reply(w, c)
			return
		}
		http.Error(w, services.ErrUnknown.Error(), http.StatusNotFound)
	}))
	mux.HandleFunc("POST /v1/conns/{id}/kill", withID(func(w http.ResponseWriter, r *http.Request, id uint64) {
		done(w, src.Kill(id, r.FormValue("how")))
	}))
	mux.HandleFunc("POST /v1/conns/{id}/probe", withID(func(w http.ResponseWriter, r *http.Request, id uint64) {
		answer, err := src.Probe(r.Context(), id)
		if err != nil {
			refuse(w, err)
			return
		}
		reply(w, answer)
	}))
	mux.HandleFunc("GET "+fetchPath, func(w http.ResponseWriter, r *http.Request) { fetch(w, r, src) })
	mux.HandleFunc("GET /v1/drain", func(w http.ResponseWriter, _ *http.Request) { reply(w, src.Drains()) })
	mux.HandleFunc("GET /v1/drain/report", func(w http.ResponseWriter, _ *http.Request) { reply(w, src.DrainReports()) })
	mux.HandleFunc("GET /v1/drain/plan", withOrder(func(w http.ResponseWriter, o DrainOrder) {
		replyOr(w, func() (DrainPlan, error) { return src.DrainPlan(o) })
	}))
	mux.HandleFunc("POST /v1/drain", withOrder(func(w http.ResponseWriter, o DrainOrder) { done(w, src.Drain(o)) }))
	mux.HandleFunc("POST /v1/undrain", func(w http.ResponseWriter, r *http.Request) { done(w, src.Undrain(r.FormValue("target"))) })
	mux.HandleFunc("GET /v1/config/diff", func(w http.ResponseWriter, _ *http.Request) { replyOr(w, src.ConfigDiff) })
	mux.HandleFunc("GET /v1/config/history", func(w http.ResponseWriter, _ *http.Request) { replyOr(w, src.ConfigHistory) })
	mux.HandleFunc("GET /v1/config", func(w http.ResponseWriter, r *http.Request) {
		withNumber(w, r, func(n int) { replyOr(w, func() (string, error) { return src.ConfigText(n) }) })
	})
	mux.HandleFunc("POST /v1/config", func(w http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, configMost))
		if err != nil {
			http.Error(w, fmt.Sprintf("a configuration has at most %d bytes", configMost), http.StatusBadRequest)
			return
		}
		withChange(w, r, func(how Change) {
			replyOr(w, func() (ConfigDiff, error) { return src.ApplyConfig(r.URL.Query().Get("name"), text, how) })
		})
	})
	mux.HandleFunc("POST /v1/config/rollback", func(w http.ResponseWriter, r *http.Request) {
		withNumber(w, r, func(n int) {
			withChange(w, r, func(how Change) {
				replyOr(w, func() (ConfigDiff, error) { return src.RollbackConfig(n, how) })
			})
		})
	})
	mux.HandleFunc("POST /v1/config/confirm", func(w http.ResponseWriter, _ *http.Request) { done(w, src.ConfirmConfig()) })
	mux.HandleFunc("POST /v1/reload", func(w http.ResponseWriter, _ *http.Request) { replyOr(w, src.Reload) })
	mux.HandleFunc("POST "+upgradePath, func(w http.ResponseWriter, r *http.Request) {
		replyOr(w, func() (Upgraded, error) { return src.Upgrade(r.FormValue("path"), r.FormValue("live_only") == "true") })
	})
	mux.HandleFunc("POST "+suspendPath, func(w http.ResponseWriter, _ *http.Request) { replyOr(w, src.Suspend) })
	mux.HandleFunc("POST /v1/stop", func(w http.ResponseWriter, _ *http.Request) {
		done(w, src.Stop())
	})
	return mux
}

// withOrder gives a handler what is to drain, and how.
func withOrder(f func(http.ResponseWriter, DrainOrder)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		o := DrainOrder{Target: r.FormValue("target"), Cause: r.FormValue("cause")}
		if text := r.FormValue("deadline"); text != "" {
			d, err := time.ParseDuration(text)
			if err != nil || d < 0 {
				http.Error(w, fmt.Sprintf("a deadline is a duration as 30s, not %q", text), http.StatusBadRequest)
				return
			}
			o.Deadline = d
		}
		f(w, o)
	}
}

// upgradePath and suspendPath are where the two are asked for that bring all to
// rest.
const (
	upgradePath = "/v1/upgrade"
	suspendPath = "/v1/suspend"
)

// configMost bounds a configuration that is sent: what package config takes.
const configMost = 1 << 20

// withNumber gives a handler the number of a configuration, 0 without one.
func withNumber(w http.ResponseWriter, r *http.Request, f func(int)) {
	text := r.URL.Query().Get("number")
	n, err := strconv.Atoi(cmp.Or(text, "0"))
	if err != nil || n < 0 {
		http.Error(w, fmt.Sprintf("a configuration has a number, not %q", text), http.StatusBadRequest)
		return
	}
	f(n)
}

// withChange gives a handler how a configuration is to come into force.
func withChange(w http.ResponseWriter, r *http.Request, f func(Change)) {
	confirm, restart := r.URL.Query().Get("confirm"), r.URL.Query().Get("restart")
	var how Change
	var err error
	if how.Confirm, err = time.ParseDuration(cmp.Or(confirm, "0s")); err != nil || how.Confirm < 0 {
		http.Error(w, fmt.Sprintf("the time for a confirmation is a duration as 60s, not %q", confirm), http.StatusBadRequest)
		return
	}
	if how.Restart, err = strconv.ParseBool(cmp.Or(restart, "false")); err != nil {
		http.Error(w, fmt.Sprintf("a restart is true or false, not %q", restart), http.StatusBadRequest)
		return
	}
	f(how)
}

// replyOr answers with what f gives, or its error.
func replyOr[T any](w http.ResponseWriter, f func() (T, error)) {
	v, err := f()
	if err != nil {
		refuse(w, err)
		return
	}
	reply(w, v)
}

// done answers an order that has no result.
func done(w http.ResponseWriter, err error) {
	if err != nil {
		refuse(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// withID gives a handler the connection's number.
func withID(f func(http.ResponseWriter, *http.Request, uint64)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id, err := strconv.ParseUint(r.PathValue("id"), 10, 64)
		if err != nil {
			http.Error(w, "a connection's ID is a number", http.StatusBadRequest)
			return
		}
		f(w, r, id)
	}
}

func refuse(w http.ResponseWriter, err error) {
	status := http.StatusBadRequest
	var draining *services.DrainingError
	switch {
	case errors.Is(err, services.ErrUnknown):
		status = http.StatusNotFound
	case errors.As(err, &draining), errors.Is(err, services.ErrNotDraining):
		status = http.StatusConflict
	}
	http.Error(w, err.Error(), status)
}

// find looks for a connection among the living and the ended.
func find(src Source, id uint64) (Connection, bool) {
	for _, r := range src.Conns() {
		if r.ID == id {
			return Connection{Live: &r}, true
		}
	}
	for _, e := range src.Ended() {
		if e.ID == id {
			return Connection{Ended: &e}, true
		}
	}
	return Connection{}, false
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	// A client that has left needs no answer.
	_ = json.NewEncoder(w).Encode(v)
}

// atRest keeps answers waiting between Rest and Wake, but that of the upgrade
// which asks for it.
func (s *Server) atRest(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != upgradePath && r.URL.Path != suspendPath {
			s.rest.RLock()
			defer s.rest.RUnlock()
			switch s.gone {
			case nil:
			case errMoved:
				http.Error(w, s.gone.Error(), http.StatusMisdirectedRequest)
				return
			default:
				http.Error(w, s.gone.Error(), http.StatusConflict)
				return
			}
		}
		h.ServeHTTP(w, r)
	})
}

// Rest waits for the answers under way; those to come wait for Wake.
func (s *Server) Rest() { s.rest.Lock() }

// Wake ends Rest.
func (s *Server) Wake() { s.rest.Unlock() }

// Withdraw removes the socket, so that another process can answer there: now, or
// only after a suspended run. It is called between Rest and Wake: what was asked
// meanwhile is told so.
func (s *Server) Withdraw(suspended bool) error {
	s.gone = errMoved
	if suspended {
		s.gone = errSuspended
	}
	l := s.listener
	if s.listener = nil; l == nil {
		return nil
	}
	return l.Close()
}

// Return takes the socket back after Withdraw, if nobody has it. It is called
// before Wake.
func (s *Server) Return(socket string) error {
	s.gone = nil
	if s.listener != nil {
		return nil
	}
	l, err := listen(socket)
	if err != nil {
		return fmt.Errorf("listen on the admin socket again: %w", err)
	}
	s.serve(l)
	return nil
}

// Close lets answers under way finish for up to ctx, and removes the socket.
func (s *Server) Close(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	s.wg.Wait()
	return err
}
