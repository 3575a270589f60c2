package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Server answers on a unix socket until Close, which is idempotent.
type Server struct {
	http http.Server
	wg   sync.WaitGroup
	log  *slog.Logger
}

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
	s.http = http.Server{Handler: routes(src), ReadHeaderTimeout: 5 * time.Second}
	s.wg.Go(func() {
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("the admin socket does not answer any more", "socket", socket, "error", err)
		}
	})
	return s, nil
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

func routes(src Source) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { reply(w, src.Status()) })
	mux.HandleFunc("GET /v1/conns", func(w http.ResponseWriter, _ *http.Request) { reply(w, src.Conns()) })
	mux.HandleFunc("GET /v1/conns/ended", func(w http.ResponseWriter, _ *http.Request) { reply(w, src.Ended()) })
	return mux
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	// A client that has left needs no answer.
	_ = json.NewEncoder(w).Encode(v)
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
