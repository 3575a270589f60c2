package labtest

import (
	"context"
	"encoding/binary"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/lastack/lastack/internal/lab"
)

// NTP answers at an address of a host, with a clock that is ahead of ours, until
// the test ends.
func NTP(t testing.TB, h *lab.Host, addr string, ahead time.Duration) {
	t.Helper()
	var conn net.PacketConn
	if err := h.Do(func() (err error) {
		var listen net.ListenConfig
		conn, err = listen.ListenPacket(context.Background(), "udp", addr)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return // closed
			}
			if answer := NTPAnswer(buf[:n], time.Now().Add(ahead)); answer != nil {
				_, _ = conn.WriteTo(answer, from) // the test ends
			}
		}
	})
	t.Cleanup(func() {
		conn.Close()
		wg.Wait()
	})
}

// NTPAnswer is a server's answer to a request (RFC 5905, 7.3) at a time, of
// stratum 2; nil if that is none.
func NTPAnswer(request []byte, at time.Time) []byte {
	const size = 48
	if len(request) < size {
		return nil
	}
	b := make([]byte, size)
	b[0], b[1], b[2], b[3] = 0x24, 2, 6, 0xec // version 4, server
	copy(b[24:32], request[40:48])            // the originate timestamp is the request's own
	stamp := timestamp(at)
	binary.BigEndian.PutUint64(b[16:], timestamp(at.Add(-time.Minute)))
	binary.BigEndian.PutUint64(b[32:], stamp)
	binary.BigEndian.PutUint64(b[40:], stamp)
	return b
}

// timestamp is a time in seconds since 1900 with a fraction of 32 bits.
func timestamp(t time.Time) uint64 {
	const since1900 = 2208988800
	return uint64(t.Unix()+since1900)<<32 | uint64(t.Nanosecond())<<32/1e9
}
