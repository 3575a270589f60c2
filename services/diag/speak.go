package diag

import (
	"fmt"
	"time"

	"github.com/lastack/lastack/services"
)

// discard says nothing: "A discard service is simply a server that throws away
// any data it receives" (RFC 863).
func discard(t *talk) spoken {
	if !t.Client.EOF {
		return spoken{}
	}
	return spoken{err: t.Client.CloseWrite()}
}

// daytime sends the time and closes: "Once a connection is established the
// current date and time is sent out the connection as a ascii character string
// (and any data received is thrown away). The service closes the connection
// after sending the quote" (RFC 867).
func daytime(t *talk) spoken {
	if t.said == 0 && t.text == nil {
		t.text = []byte(t.Loop().Time(t.Opened()).UTC().Format(time.RFC1123) + "\r\n")
	}
	return quote(t)
}

// health tells an HTTP client that asks, whatever it asks for, whether new
// connections are welcome: a load balancer before this box sends none while a
// drain is announced (RFC 9110, 15.3.1 and 15.6.4). The answer begins when the
// question does; the rest of that is read and thrown away.
func health(t *talk) spoken {
	switch {
	case t.text != nil:
	case !t.asked && !t.Client.EOF:
		return spoken{}
	case t.diag.serving == nil || t.diag.serving():
		t.text = []byte(httpAnswer("200 OK", "serving"))
	default:
		t.text = []byte(httpAnswer("503 Service Unavailable", "draining"))
	}
	return quote(t)
}

func httpAnswer(status, body string) string {
	return fmt.Sprintf("HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n%s\n", status, len(body)+1, body)
}

// quote sends the text and closes.
func quote(t *talk) spoken {
	var s spoken
	if s.bytes, s.err = t.say(t.text[t.said:]); s.err == nil && t.said == len(t.text) {
		s.err = t.Client.CloseWrite()
	}
	return s
}

// pattern is what chargen sends (RFC 864): lines of 72 of the 95 printing
// characters, each starting one later than the line before.
type pattern struct {
	text   []byte // several periods, so that a write is long from anywhere in the first
	period int
}

const (
	lineLength = 72
	printing   = 95 // from blank to tilde
	periods    = 9
	// speakBudget is what one run sends at most before others have their turn.
	speakBudget = 1 << 20
)

func newPattern() *pattern {
	p := &pattern{period: printing * (lineLength + 2)}
	for i := range printing * periods {
		for j := range lineLength {
			p.text = append(p.text, byte(' '+(i+j)%printing))
		}
		p.text = append(p.text, '\r', '\n')
	}
	return p
}

// speak sends "until the calling user terminates the connection".
func (p *pattern) speak(t *talk) spoken {
	var s spoken
	if t.Client.EOF {
		s.err = t.Client.CloseWrite()
		return s
	}
	for s.bytes < speakBudget {
		n, err := t.say(p.text[t.said:])
		t.said %= p.period
		s.bytes += n
		if err != nil || n == 0 {
			s.err = err
			return s
		}
	}
	s.more = true
	return s
}

// say writes what the connection takes of b.
func (t *talk) say(b []byte) (int, error) {
	n, err := t.Client.Conn.TryWrite(b)
	t.Client.Sent(n)
	t.said += n
	if err == services.ErrWouldBlock {
		err = nil
	}
	return n, err
}
