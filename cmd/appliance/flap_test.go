package main

import (
	"io"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
	"github.com/lastack/lastack/internal/lab/labtest"
)

// A link that is gone for a moment takes a whole window with it. With
// loss_detection sack the download is back at speed within seconds; with rack
// gVisor repeats two segments for each timeout.
func TestADownloadRecoversFromALinkThatWasGoneForAMoment(t *testing.T) {
	t.Parallel()
	r := newRig(t, &lab.Impairment{Delay: 5 * time.Millisecond, Rate: 100e6, Seed: 1})
	blob := lab.Blob{Seed: 1, Size: 48 << 20}
	labtest.BulkServer(t, r.backend, "10.0.0.21:80", blob, lab.Blob{})
	r.configure(`policies: {default: {retransmit: {loss_detection: sack}}}
services: {web: {type: proxy, listen: "wan0:80", backends: ["10.0.0.21:80"]}}
`)
	p := r.start()
	c := r.dial("192.0.2.10:80")
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	flap := time.AfterFunc(time.Second, func() {
		r.wan.Cut()
		time.AfterFunc(300*time.Millisecond, r.wan.Mend)
	})
	defer flap.Stop()
	n, err := io.Copy(io.Discard, deadline(t, c))
	if err != nil || n != blob.Size {
		t.Errorf("got %d bytes and %v within %v, want %d", n, err, time.Since(begin).Round(time.Millisecond), blob.Size)
	}
	// It takes 6.4 s, with gVisor's RACK 24 s: see stack/options.go.
	if took := time.Since(begin); took > 16*time.Second {
		t.Errorf("%d bytes took %v", n, took.Round(time.Millisecond))
	}
	p.stop()
}
