package proxy_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/lastack/lastack/config"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/services/servicestest"
)

const (
	question = "PING\r\n"
	answer   = "PONG\r\n"
)

// beating runs f with a pair whose service asks the given side after 10 s.
func beating(t *testing.T, side string, f func(r *rig, client, backend *servicestest.Peer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.conf.Heartbeat = config.Heartbeat{Side: side, Idle: 10 * time.Second, Timeout: 2 * time.Second, Send: question, Expect: answer}
		h := r.backend(back1)
		r.start()
		defer r.stop()
		client, backend := r.pair(h)
		f(r, client, backend)
	})
}

// silent wants that nothing can be read.
func (r *rig) silent(p *servicestest.Peer) {
	r.Helper()
	synctest.Wait()
	buf := make([]byte, 100)
	if n, err := p.TryRead(buf); err != services.ErrWouldBlock {
		r.Errorf("read %q, %v; want nothing", buf[:n], err)
	}
}

func TestAnIdleBackendIsAskedAndItsAnswerIsSwallowed(t *testing.T) {
	beating(t, "backend", func(r *rig, client, backend *servicestest.Peer) {
		for range 3 {
			asked := time.Now()
			r.hear(backend, question)
			if waited := time.Since(asked); waited < 9*time.Second || waited > 11*time.Second {
				r.Errorf("asked after %v, want 10s", waited)
			}
			r.say(backend, answer)
			time.Sleep(time.Second)
			r.silent(client)
		}
		r.say(client, "request")
		r.hear(backend, "request")
		if rows := r.proxy.Conns(); len(rows) != 1 || rows[0].ToClient != 0 || rows[0].ToBackend != 7 {
			r.Errorf("rows are %+v, want one with heartbeats not counted", rows)
		}
	})
}

func TestAnAnswerInPiecesIsSwallowedAndWhatFollowsIsNot(t *testing.T) {
	beating(t, "backend", func(r *rig, client, backend *servicestest.Peer) {
		r.hear(backend, question)
		for _, piece := range []string{"P", "ON", "G\r"} {
			r.say(backend, piece)
			time.Sleep(100 * time.Millisecond)
			r.silent(client)
		}
		r.say(backend, "\nnews")
		r.hear(client, "news")
		time.Sleep(3 * time.Second)
		r.say(backend, answer) // nobody has asked
		r.hear(client, answer)
	})
}

func TestWhatOnlyBeginsLikeTheAnswerIsPassedOnWhole(t *testing.T) {
	beating(t, "backend", func(r *rig, client, backend *servicestest.Peer) {
		r.hear(backend, question)
		r.say(backend, "PO")
		time.Sleep(100 * time.Millisecond)
		r.say(backend, "ST something")
		r.hear(client, "POST something")
		time.Sleep(5 * time.Second) // more than the timeout: what came is a sign of life
		r.say(client, "more")
		r.hear(backend, "more")
	})
}

func TestAPieceOfAnAnswerBeforeTheEndIsPassedOn(t *testing.T) {
	beating(t, "backend", func(r *rig, client, backend *servicestest.Peer) {
		r.hear(backend, question)
		r.say(backend, "PON")
		time.Sleep(100 * time.Millisecond)
		backend.CloseWrite()
		r.hear(client, "PON")
		r.hearEnd(client)
	})
}

func TestABackendThatDoesNotAnswerEndsTheConnection(t *testing.T) {
	beating(t, "backend", func(r *rig, client, backend *servicestest.Peer) {
		began := time.Now()
		r.hearReset(client)
		if waited := time.Since(began); waited < 11*time.Second || waited > 13*time.Second {
			r.Errorf("told after %v, want 12s: idle and timeout", waited)
		}
		r.hear(backend, question)
		r.hearReset(backend)
		r.wantEnd(services.BackendHeartbeat, "backend", services.ByTimeout, services.Reset)
	})
}

func TestAClientThatDoesNotAnswerEndsTheConnection(t *testing.T) {
	beating(t, "both", func(r *rig, client, backend *servicestest.Peer) {
		r.hear(backend, question)
		r.say(backend, answer)
		r.hear(client, question)
		r.hearReset(backend)
		r.wantEnd(services.ClientHeartbeat, "client", services.ByTimeout, services.Reset)
	})
}

func TestTrafficEitherWayPutsTheQuestionOff(t *testing.T) {
	beating(t, "backend", func(r *rig, client, backend *servicestest.Peer) {
		for range 5 {
			time.Sleep(9 * time.Second)
			r.say(client, "x")
			r.hear(backend, "x")
			time.Sleep(9 * time.Second)
			r.say(backend, "y")
			r.hear(client, "y")
		}
		r.silent(backend)
	})
}

func TestHeartbeatsDoNotHoldAnIdleConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.conf.IdleTimeout = 25 * time.Second
		r.conf.Heartbeat = config.Heartbeat{Side: "backend", Idle: 10 * time.Second, Timeout: 2 * time.Second, Send: question, Expect: answer}
		h := r.backend(back1)
		r.start()
		defer r.stop()
		client, backend := r.pair(h)
		for range 2 {
			r.hear(backend, question)
			r.say(backend, answer)
		}
		r.hearEnd(client)
		r.hearEnd(backend)
		client.Close()
		backend.Close()
		time.Sleep(time.Second)
		r.wantEnd(services.IdleTimeout, "us", services.ByFIN, services.Clean)
	})
}

func TestASideThatHasFinishedIsNotAsked(t *testing.T) {
	beating(t, "both", func(r *rig, client, backend *servicestest.Peer) {
		client.CloseWrite()
		r.hearEnd(backend) // so neither can be asked: one can't be written to, the other won't answer
		time.Sleep(time.Minute)
		r.silent(client)
		r.say(backend, "the answer, late")
		r.hear(client, "the answer, late")
	})
}

func TestAQuestionDoesNotOvertakeWhatABackendHasNotTaken(t *testing.T) {
	beating(t, "backend", func(r *rig, client, backend *servicestest.Peer) {
		big := make([]byte, 300_000) // more than all buffers on the way
		writer := client.Split()
		go writer.Write(big)
		time.Sleep(time.Minute)
		got := 0
		for got < len(big) {
			buf := make([]byte, 10_000)
			n, err := backend.Read(buf)
			if err != nil {
				r.Fatalf("after %d bytes: %v", got, err)
			}
			for i, b := range buf[:n] {
				if b != 0 {
					r.Fatalf("byte %d is %q, want a question only behind the %d bytes", got+i, b, len(big))
				}
			}
			got += n
		}
		r.hear(backend, question)
		r.say(backend, answer)
	})
}
