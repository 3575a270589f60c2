package timesync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lastack/lastack/internal/lab/labtest"
)

// clock notes what is done to it.
type clock struct{ steps, slews []time.Duration }

func (c *clock) Step(by time.Duration) error { c.steps = append(c.steps, by); return nil }
func (c *clock) Slew(by time.Duration) error { c.slews = append(c.slews, by); return nil }

// servers are some whose clocks are ahead of ours; one that is Broken says nothing.
type servers map[string]time.Duration

const broken = time.Duration(-1)

func (s servers) options() Options {
	return Options{
		Servers: func() (all []netip.AddrPort) {
			for a := range s {
				all = append(all, netip.MustParseAddrPort(a))
			}
			return all
		},
		Dial: func(a netip.AddrPort) (net.Conn, error) {
			ahead := s[a.String()]
			if ahead == broken {
				return nil, errors.New("no way there")
			}
			ours, theirs := net.Pipe()
			go func() {
				defer theirs.Close()
				buf := make([]byte, 1500)
				if n, err := theirs.Read(buf); err == nil {
					_, _ = theirs.Write(labtest.NTPAnswer(buf[:n], time.Now().Add(ahead))) // who asked may have gone
				}
			}()
			return ours, nil
		},
	}
}

func near(got, want time.Duration) bool { return (got - want).Abs() < 50*time.Millisecond }

func TestTheClockIsSetByTheServerInTheMiddle(t *testing.T) {
	c := &clock{}
	o := servers{"192.0.2.1:123": time.Hour, "192.0.2.2:123": 10 * time.Second, "192.0.2.3:123": -time.Hour, "192.0.2.4:123": broken}.options()
	o.Clock, o.Built = c, time.Now().Add(-time.Hour)
	k := New(o)
	if _, err := k.once(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(c.steps) != 1 || !near(c.steps[0], 10*time.Second) || len(c.slews) != 0 {
		t.Errorf("got steps %v and slews %v, want one step by 10 s", c.steps, c.slews)
	}
	if s := k.Status(); s.Server.String() != "192.0.2.2:123" || s.Steps != 1 || s.Stratum != 2 || s.Error != "" {
		t.Errorf("got %+v, want an answer of 192.0.2.2", s)
	}
}

func TestALittleIsNoStep(t *testing.T) {
	c := &clock{}
	o := servers{"192.0.2.1:123": 60 * time.Millisecond}.options()
	o.Clock = c
	if _, err := New(o).once(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(c.slews) != 1 || len(c.steps) != 0 {
		t.Errorf("got steps %v and slews %v, want one slew", c.steps, c.slews)
	}
}

func TestTimeBeforeTheProgramWasMadeIsNotBelieved(t *testing.T) {
	c := &clock{}
	o := servers{"192.0.2.1:123": -24 * time.Hour}.options()
	o.Clock, o.Built = c, time.Now().Add(-time.Hour)
	_, err := New(o).once(t.Context())
	if err == nil || !strings.Contains(err.Error(), "before this program was made") || len(c.steps)+len(c.slews) != 0 {
		t.Errorf("got %v and %v, want a refusal", err, c)
	}
}

func TestWithoutLeaveTheOffsetIsOnlyTold(t *testing.T) {
	k := New(servers{"192.0.2.1:123": 10 * time.Second}.options())
	if _, err := k.once(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := k.Status(); !near(s.Offset, 10*time.Second) || s.Sets || s.Steps != 0 {
		t.Errorf("got %+v, want an offset of 10 s", s)
	}
}

func TestWithoutAnAnswerTheReasonIsTold(t *testing.T) {
	for want, s := range map[string]servers{"no NTP server is known": {}, "no way there": {"192.0.2.1:123": broken}} {
		if _, err := New(s.options()).once(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestWhatIsWrongIsSaidOnceUntilSomethingChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		asked := 0
		k := New(Options{
			Servers: func() []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:123")} },
			Dial: func(netip.AddrPort) (net.Conn, error) {
				asked++
				return nil, fmt.Errorf("no way there from port %d", asked)
			},
			Log: slog.New(slog.NewTextHandler(&log, nil)),
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); k.Run(ctx) }()
		time.Sleep(time.Hour) // of the bubble
		synctest.Wait()
		if n := strings.Count(log.String(), "the time is not known"); n != 1 || asked < 50 {
			t.Errorf("got %d lines in an hour with %d questions, want one:\n%s", n, asked, log.String())
		}
		if s := k.Status(); !strings.HasSuffix(s.Error, fmt.Sprintf("from port %d", asked)) {
			t.Errorf("got %q in the status, want the last reason", s.Error)
		}
		k.Wake()
		synctest.Wait()
		if n := strings.Count(log.String(), "the time is not known"); n != 2 {
			t.Errorf("got %d lines after a wake, want two:\n%s", n, log.String())
		}
		cancel()
		<-done
	})
}
