package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
)

// Web is an HTTP server on a host's kernel. Whoever starts it closes it.
type Web struct {
	addr   string
	server *http.Server
	owned  sync.WaitGroup
	err    error // of Serve, set before owned is done
}

// NewWeb starts an HTTP server; a nil handler means Pages.
func NewWeb(ctx context.Context, h *Host, addr string, handler http.Handler) (*Web, error) {
	l, err := h.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if handler == nil {
		handler = Pages()
	}
	w := &Web{addr: l.Addr().String(), server: &http.Server{Handler: handler}}
	w.owned.Go(func() { w.err = w.server.Serve(l) })
	return w, nil
}

// Addr is where the server listens.
func (w *Web) Addr() string { return w.addr }

// Close ends the server with all its connections.
func (w *Web) Close() error {
	err := w.server.Close()
	w.owned.Wait()
	if !errors.Is(w.err, http.ErrServerClosed) {
		err = errors.Join(err, w.err)
	}
	return err
}

// Pages is a small web site: / greets, /bytes?n=1000 gives so many bytes,
// /echo returns what is posted to it.
func Pages() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello %s\n", r.RemoteAddr)
	})
	mux.HandleFunc("GET /bytes", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.ParseInt(r.FormValue("n"), 10, 64)
		if err != nil || n < 0 {
			http.Error(w, "n must be a number of bytes", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		// The client may leave before the end.
		_, _ = io.Copy(w, Blob{Size: n}.Reader())
	})
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
		// Likewise.
		_, _ = io.Copy(w, r.Body)
	})
	return mux
}
