package config

import (
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// Heartbeat is a question that a service asks of a peer whose connection is
// idle, and how the answer begins. The zero Heartbeat asks nobody.
type Heartbeat struct {
	Side    string        // "backend", "client" or "both"; "" is off
	Idle    time.Duration // without a byte either way for this long, Send is sent
	Timeout time.Duration // without a byte from the peer for this long after, the connection ends
	Send    string
	Expect  string // what an answer begins with; it is not passed on
}

const (
	maxHeartbeat     = 1024 // bytes; a question, not a transfer
	heartbeatIdle    = 30 * time.Second
	heartbeatTimeout = 5 * time.Second
)

// Enabled reports whether any peer is asked.
func (h Heartbeat) Enabled() bool { return h.Side != "" }

// Asks reports whether the peers of a side, "client" or "backend", are asked.
func (h Heartbeat) Asks(side string) bool { return h.Side == side || h.Side == "both" }

// heartbeat decodes the question; which side takes it is settled by checkHeartbeat.
func (v value) heartbeat(dst *Heartbeat) {
	if v.off() {
		*dst = Heartbeat{}
		return
	}
	h := Heartbeat{Idle: heartbeatIdle, Timeout: heartbeatTimeout}
	before := len(v.p.errs)
	found := v.mapping(
		field{"side", func(v value) { v.oneOf(&h.Side, "backend", "client", "both") }},
		field{"idle", func(v value) { v.duration(&h.Idle, shortest, day) }},
		field{"timeout", func(v value) { v.duration(&h.Timeout, shortest, day) }},
		field{"send", func(v value) { v.message(&h.Send) }},
		field{"expect", func(v value) { v.message(&h.Expect) }},
	)
	if len(v.p.errs) > before {
		return
	}
	if _, ok := found["send"]; !ok {
		v.missing("send", `is missing; a heartbeat needs a message that the peer answers, as in "PING\r\n"`)
	}
	if _, ok := found["expect"]; !ok {
		v.missing("expect", `is missing; a heartbeat needs the beginning of the answer, as in "PONG"`)
	}
	*dst = h
}

// message decodes a text to be sent or expected.
func (v value) message(dst *string) {
	text, ok := v.text(`a text such as "PING\r\n"`)
	if ok && len(text) > maxHeartbeat {
		v.failf("is %d bytes long; a heartbeat has at most %d", len(text), maxHeartbeat)
		return
	}
	*dst = text
}

// checkHeartbeat settles which side is asked, by the type of the service.
func (p *parser) checkHeartbeat(d *serviceDraft) {
	at, set := d.found["heartbeat"]
	if !set || d.Heartbeat.Send == "" {
		d.Heartbeat = Heartbeat{}
		return
	}
	h := &d.Heartbeat
	switch {
	case d.Type == "daytime" || d.Type == "chargen" || d.Type == "health":
		at.failf("%s talks by itself and is never idle; a heartbeat goes with proxy, echo and discard", d.Type)
	case d.Type == "proxy" && h.Side == "":
		h.Side = "backend"
	case d.Type != "proxy" && h.Side == "":
		h.Side = "client"
	case slices.Contains([]string{"echo", "discard"}, d.Type) && h.Side != "client":
		at.fail("side "+h.Side+": type "+d.Type+" has no backend", "client")
	}
	if strings.HasPrefix(h.Send, h.Expect) && d.Type == "proxy" && h.Side == "both" {
		p.warn(at.pos(), at.path, "an answer begins as the question does: what a peer asks by itself would be taken for its answer")
	}
}

func (h Heartbeat) node() *yaml.Node {
	return flow(
		pair{"side", word(h.Side)},
		pair{"idle", span(h.Idle)},
		pair{"send", quoted(h.Send)},
		pair{"expect", quoted(h.Expect)},
		pair{"timeout", span(h.Timeout)},
	)
}

// quoted is a text with its control characters escaped.
func quoted(s string) *yaml.Node {
	n := word(s)
	n.Style = yaml.DoubleQuotedStyle
	return n
}
