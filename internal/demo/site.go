package demo

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A piece of a slow answer, and how often there is one: well within the time
// after which a draining proxy takes a connection for quiet.
const (
	pieceSize  = 4096
	pieceEvery = 20 * time.Millisecond
)

// site is a backend's web site: / tells its name, /fast sends without end as
// fast as it goes, /slow?pieces=N so many pieces, one after the other, without
// N endlessly. An endless answer ends when the client has finished.
func site(name string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello from %s, asked by %s\n", name, r.RemoteAddr)
	})
	mux.HandleFunc("GET /fast", fast)
	mux.HandleFunc("GET /slow", slow)
	return mux
}

func fast(w http.ResponseWriter, r *http.Request) {
	buf := make([]byte, 128<<10)
	for r.Context().Err() == nil {
		if _, err := w.Write(buf); err != nil {
			return
		}
	}
}

func slow(w http.ResponseWriter, r *http.Request) {
	pieces, err := strconv.Atoi(r.FormValue("pieces"))
	endless := err != nil
	if !endless {
		w.Header().Set("Content-Length", strconv.Itoa(pieces*pieceSize))
	}
	tick := time.NewTicker(pieceEvery)
	defer tick.Stop()
	out, buf := http.NewResponseController(w), make([]byte, pieceSize)
	for i := 0; endless || i < pieces; i++ {
		if _, err := w.Write(buf); err != nil || out.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

// lineEvery is the pause of sortLines between two lines.
const lineEvery = 300 * time.Millisecond

// sortLines reads lines to their end, which only the client's FIN shows, and
// answers with them in order, one after the other.
func sortLines(c net.Conn) error {
	text, err := io.ReadAll(io.LimitReader(c, 1<<20))
	if err != nil {
		return err
	}
	lines := slices.Sorted(strings.Lines(string(text)))
	tick := time.NewTicker(lineEvery)
	defer tick.Stop()
	for _, l := range lines {
		if _, err := io.WriteString(c, l); err != nil {
			return err
		}
		<-tick.C
	}
	return nil
}
