// Package admin answers the command line over a unix socket: HTTP with JSON.
//
//	GET /v1/status          Status
//	GET /v1/conns           []services.Row, the live connections
//	GET /v1/conns/ended     []services.Ended, newest first
//
// Server is the daemon's side, Client the command line's. Paths and fields are
// only ever added to. The socket's mode is 0600: whoever may open it is the
// operator. A Server owns the goroutine that accepts and one for each request;
// Close stops them and waits.
package admin
