package config

import (
	"net/netip"
	"slices"
	"time"
)

// Config is one whole configuration, checked and with defaults filled in.
type Config struct {
	File       string            // path it was read from, "" for a reader
	Text       []byte            // as it stands in the file
	Interfaces []Interface       // in the order of the file
	Policies   map[string]Policy // always holds "default"
	Services   []Service         // in the order of the file
	Drain      Drain
	Admin      Admin
	State      State
	Carried    Carried
	Time       Time

	warnings []Error
}

// Warnings returns what is allowed and probably not meant, sorted by place.
func (c *Config) Warnings() []Error { return slices.Clone(c.warnings) }

// Interface is a network card to take from the kernel, and its place in the network.
type Interface struct {
	Name      string         // kernel name of the card, and the name services use
	Addresses []netip.Prefix // own addresses with their prefix length
	Gateways  []netip.Addr   // default gateways, at most one per address family
	Routes    []Route        // further static routes
	MTU       int            // bytes; 0 leaves the card's MTU
	Queues    int            // rx sockets in one PACKET_FANOUT group; 0 picks by cores
	AcceptRA  bool           // IPv6 router advertisements are obeyed (RFC 4861 6.3)
	DHCP      bool           // one more IPv4 address comes from a DHCP server (RFC 2131)
	Pos       Pos
}

// Route is one static route out of an Interface.
type Route struct {
	To  netip.Prefix
	Via netip.Addr
}

// Service is something that listens.
type Service struct {
	Name           string
	Type           string   // "proxy", "echo", "discard", "daytime", "chargen", "health"
	Listen         []Listen // at least one
	Policy         string   // a key of Config.Policies
	MaxConns       int      // connections at once; 0 = no limit
	Ledger         int      // ended connections that are remembered; 0 = 1024, negative = none
	Heartbeat      Heartbeat
	Backends       []netip.AddrPort
	Balance        string        // proxy: "roundrobin"
	ConnectTimeout time.Duration // proxy: one attempt at one backend
	ConnectRetries int           // proxy: further attempts, each on the next backend
	IdleTimeout    time.Duration // proxy: no byte either way for this long ends the connection; negative = off
	Forwarding     string        // proxy: "auto", "relay", "splice" or "direct"; see Carrier
	Pos            Pos
}

// Listen is one place a Service accepts connections. Interface and Addr are
// resolved to Addrs, the concrete addresses, when the file is checked.
type Listen struct {
	Interface string     // "" when an address was given
	Addr      netip.Addr // zero when an interface was named
	Port      uint16
	Addrs     []netip.AddrPort // what this means: one per address of the interface in the file; see Service.With
	Pos       Pos
}

// Drain says how the process stops.
type Drain struct {
	Announce time.Duration // time between the signal and the first refused SYN
	Deadline time.Duration // time busy connections may take to finish
	FinGrace time.Duration // time a peer has to answer our FIN before it is reset
	Refuse   string        // answer to a SYN while draining: "rst" or "silence"

	Min        time.Duration // the least a drain takes, though no connection is left
	Max        time.Duration // the most, from the first refused SYN to the last RST
	Spread     time.Duration // closes are spread over this time at random
	LingerRead time.Duration // time after our FIN in which data draw no RST

	Profiles map[string]Drain // by cause, each complete; see DrainCauses
}

// Admin is where the daemon answers the command line.
type Admin struct {
	Socket  string // unix socket path; "" = off
	SSH     SSH
	Console Console
}

// SSH is where the command line is served on a network, and for whom.
type SSH struct {
	Listen             []Listen // none = off
	AuthorizedKeys     []string // lines of ssh-keygen
	AuthorizedKeysFile string   // more of them; "" = none
	HostKey            string   // "" = in the state directory
}

// Console is how one logs in on a serial line.
type Console struct {
	PasswordHash string // bcrypt; "" = that in the state directory, if there is one
}

// State says what the daemon remembers in its state directory.
type State struct {
	Journal         bool          // which connections are alive, so that a start after a crash can end them
	JournalInterval time.Duration // how often it is written at most, 1s or more
}

// Carried bounds what the flow table carries without the stack.
type Carried struct {
	Max  int    // connections at once; some 500 bytes each
	Full string // what a further client gets: "refuse", "relay" or "oldest", who pushes the one out that has been idle for longest
}

// Time says whom to ask for the time.
type Time struct {
	Asked   bool             // there is such a section
	Servers []netip.AddrPort // NTP; none = those of DHCP
	Set     bool             // the clock is set by them
}

// Pos is a place in the configuration file.
type Pos struct{ Line, Column int }
