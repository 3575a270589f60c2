// Package admin answers the command line over a unix socket: HTTP with JSON.
//
//	GET /v1/status          Status
//	GET /v1/conns           []services.Row, the live connections
//	GET /v1/conns/ended     []services.Ended, newest first
//	GET /v1/conns/ID        Connection, live or ended; 404 if neither
//	POST /v1/conns/ID/kill?how=fin|rst
//	POST /v1/conns/ID/probe services.Probed, after some seconds at most
//	GET /v1/flows           []Flow, what the wire knows: TIME-WAIT and half-open ones too
//
// Server is the daemon's side, Client the command line's. Paths and fields are
// only ever added to. The socket's mode is 0600: whoever may open it is the
// operator. A Server owns the goroutine that accepts and one for each request;
// Close stops them and waits.
package admin
