package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/lastack/lastack/internal/handover"
	"github.com/lastack/lastack/services"
	"github.com/lastack/lastack/stack"
)

// collected is all that the next process needs, but the packet sockets.
type collected struct {
	state handedState
	flows []byte
	conns []byte
}

func (c *collected) encode() ([]byte, error) { return json.Marshal(c.state) }

// collect gathers it while everything rests. The files are the packet sockets, in
// the order of the cards; they are the caller's to close.
func (d *daemon) collect() (c *collected, files []*os.File, err error) {
	defer func() {
		if err != nil {
			handover.CloseAll(files)
			files = nil
		}
	}()
	c = &collected{state: handedState{
		PID: os.Getpid(), Clock: d.clock.Since(), Loops: d.loops.Now(), Began: d.started, Services: make(map[string]*services.Saved),
	}}
	d.leases.handed(&c.state)
	for i, ep := range d.endpoints {
		sockets, err := ep.Sockets()
		if err != nil {
			return c, files, err
		}
		files = append(files, sockets...)
		c.state.Cards = append(c.state.Cards, handedCard{ep.Name(), d.nics[i].MAC(), len(sockets)})
	}
	var conns []*stack.Conn
	for _, s := range d.supervisor.Services() {
		saved, held := s.Save()
		c.state.Services[s.Name()] = saved
		for _, one := range held {
			conn, ok := one.(*stack.Conn)
			if !ok {
				return c, files, fmt.Errorf("service %s: internal error: a connection is a %T", s.Name(), one)
			}
			conns = append(conns, conn)
		}
	}
	began := time.Now()
	var flows, image bytes.Buffer
	if err := d.flows.Save(&flows); err != nil {
		return c, files, err
	}
	if err := d.stack.Save(&image, conns); err != nil {
		return c, files, err
	}
	c.flows, c.conns = flows.Bytes(), image.Bytes()
	d.log.Debug("wrote the state", "flows", flows.Len(), "connections", image.Len(), "took", time.Since(began).Round(time.Millisecond))
	return c, files, nil
}

// tell sends all that the new process needs, and hears whether it has it.
func (d *daemon) tell(line *handover.Line) (got loaded, err error) {
	c, files, err := d.collect()
	if err != nil {
		return got, err
	}
	defer handover.CloseAll(files)
	began := time.Now()
	err = line.SendJSON("the state", c.state, files...)
	if err == nil {
		err = line.Send("the flows", c.flows)
	}
	if err == nil {
		err = line.Send("the connections", c.conns)
	}
	d.log.Debug("sent the state", "took", time.Since(began).Round(time.Millisecond))
	if err == nil {
		err = line.ReceiveJSON("its account", &got)
	}
	if err != nil {
		return got, fmt.Errorf("the new process could not take over: %w", err)
	}
	return got, nil
}
