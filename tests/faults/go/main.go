// A client of the mesh that is none of ours: gRPC-Go with its own xDS, our bootstrap, and certificates that somebody
// else keeps fresh. It calls at a steady rate, keeps a stream open, and tells at the end what failed.
//
// Messages are bytes here: what is said does not matter, only whether it is answered.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	xdscreds "google.golang.org/grpc/credentials/xds"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	_ "google.golang.org/grpc/xds"
)

const (
	get   = "/shop.catalog.v1.Catalog/GetProduct"
	list  = "/shop.catalog.v1.Catalog/ListProducts"
	watch = "/shop.catalog.v1.Catalog/WatchProducts"
	pays  = "/shop.payments.v1.Payments/GetPayment"
)

type raw struct{}

func (raw) Name() string                  { return "proto" }
func (raw) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}
func field1(text string) []byte { return append([]byte{0x0a, byte(len(text))}, text...) }
func as(err error, wanted codes.Code) error {
	if status.Code(err) == wanted {
		return nil
	}
	return err
}

type summary struct {
	Calls          map[string]int `json:"calls"`
	Failed         map[string]int `json:"failed"`
	Samples        []string       `json:"samples"`
	StreamMessages int            `json:"stream_messages"`
	Reopened       int            `json:"streams_reopened"`
	Addresses      map[string]int `json:"addresses"`
	mutex          sync.Mutex
}

func (s *summary) note(method string, err error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.Calls[method]++
	if err != nil {
		s.Failed[method]++
		if len(s.Samples) < 10 {
			s.Samples = append(s.Samples, fmt.Sprintf("%s: %v", method, err))
		}
	}
}

func main() {
	seconds := flag.Float64("seconds", 10, "how long")
	rate := flag.Float64("rate", 40, "calls per second")
	flag.Parse()
	// Where a cluster came without TLS, Go would take the fallback: it trusts nobody.
	nobody := credentials.NewTLS(&tls.Config{RootCAs: x509.NewCertPool()})
	secure, err := xdscreds.NewClientCredentials(xdscreds.ClientOptions{FallbackCreds: nobody})
	check(err)
	encoding.RegisterCodec(raw{})
	conn, err := grpc.NewClient("xds:///mesh", grpc.WithTransportCredentials(secure))
	check(err)
	defer conn.Close()

	told := &summary{Calls: map[string]int{}, Failed: map[string]int{}, Addresses: map[string]int{}}
	opening, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	check(unary(opening, conn, told, list, nil, codes.OK, grpc.WaitForReady(true)))
	cancel()
	fmt.Println("open")

	ends := time.Now().Add(time.Duration(*seconds * float64(time.Second)))
	whole, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Add(1)
	go func() { defer running.Done(); keepWatching(whole, conn, told) }()
	ticker := time.NewTicker(time.Duration(float64(time.Second) / *rate))
	for n := 0; time.Now().Before(ends); n++ {
		<-ticker.C
		running.Add(1)
		go func() {
			defer running.Done()
			ctx, done := context.WithTimeout(context.Background(), 5*time.Second)
			defer done()
			switch n % 3 {
			case 0:
				told.note(get, unary(ctx, conn, told, get, field1("NONE"), codes.NotFound))
			case 1:
				told.note(list, unary(ctx, conn, told, list, nil, codes.OK))
			default:
				told.note(pays, unary(ctx, conn, told, pays, field1("0123456789abcdef0123456789abcdef"), codes.NotFound))
			}
		}()
	}
	stop()
	running.Wait()
	check(json.NewEncoder(os.Stdout).Encode(told))
}

// One request; every reply is read. Whoever is asked for what is not there answers NOT_FOUND.
func unary(ctx context.Context, conn *grpc.ClientConn, told *summary, method string, request []byte,
	wanted codes.Code, options ...grpc.CallOption) error {
	var from peer.Peer
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method, append(options, grpc.Peer(&from))...)
	if err != nil {
		return err
	}
	if err = stream.SendMsg(&request); err == nil {
		err = stream.CloseSend()
	}
	for err == nil {
		var reply []byte
		err = stream.RecvMsg(&reply)
	}
	if from.Addr != nil {
		told.mutex.Lock()
		told.Addresses[from.Addr.String()]++
		told.mutex.Unlock()
	}
	if err.Error() == "EOF" {
		err = nil
	}
	return as(err, wanted)
}

// A stream that is cut (UNAVAILABLE) after it has brought something is opened again: connections end by age.
func keepWatching(ctx context.Context, conn *grpc.ClientConn, told *summary) {
	for {
		brought, err := watchOnce(ctx, conn, told)
		if ctx.Err() != nil {
			told.note(watch, nil)
			return
		}
		if status.Code(err) != codes.Unavailable || !brought {
			told.note(watch, fmt.Errorf("brought something: %v: %w", brought, err))
			time.Sleep(200 * time.Millisecond)
		}
		told.Reopened++
	}
}

func watchOnce(ctx context.Context, conn *grpc.ClientConn, told *summary) (bool, error) {
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, watch)
	if err != nil {
		return false, err
	}
	request := []byte{}
	if err = stream.SendMsg(&request); err == nil {
		err = stream.CloseSend()
	}
	brought := false
	for err == nil {
		var reply []byte
		if err = stream.RecvMsg(&reply); err == nil {
			brought = true
			told.StreamMessages++
		}
	}
	return brought, err
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "go client:", err)
		os.Exit(1)
	}
}
