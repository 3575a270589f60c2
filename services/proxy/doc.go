// Package proxy relays TCP connections to backends.
//
// Proxy is the service; what it makes of a connection is a pair, the client's
// connection and the backend's, and a pipe each way. A pair dials (connect.go)
// a backend that Pool picked (pool.go), relays (pair.go) until both directions
// have ended, and keeps the limits on time (limits.go). What one side does
// reaches the other as it was: FIN as FIN behind the last byte, with the other
// direction going on, and RST as RST.
//
// The package runs no goroutine: pairs are tasks of the loops. It stops by the
// methods of services.Service.
package proxy
