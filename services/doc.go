// Package services runs what listens: it declares what it needs of a TCP
// connection (Conn, Listener, Network), drives all of them from one event loop
// per core (Loop), and starts, drains and stops Services in order (Supervisor).
//
// Nothing here blocks on a connection and no connection has a goroutine of its
// own. The package knows neither gVisor nor the network card.
package services
