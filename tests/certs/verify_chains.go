// Reads cases as JSON, writes Go's verdict on each: "" for accepted, else why not. See test_chain_differential.py.
package main

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"time"
)

type chain struct {
	Leaf, Intermediates, Roots string
	Time                       int64
}

func verdict(c chain) string {
	block, _ := pem.Decode([]byte(c.Leaf))
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err.Error()
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(c.Roots))
	intermediates.AppendCertsFromPEM([]byte(c.Intermediates))
	// One usage a time: given several, Go accepts a chain that is good for any of them.
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		_, err = leaf.Verify(x509.VerifyOptions{
			Roots:         roots,
			Intermediates: intermediates,
			CurrentTime:   time.Unix(c.Time, 0),
			KeyUsages:     []x509.ExtKeyUsage{usage},
		})
		if err != nil {
			return err.Error()
		}
	}
	return ""
}

func main() {
	var chains []chain
	if err := json.NewDecoder(os.Stdin).Decode(&chains); err != nil {
		panic(err)
	}
	verdicts := make([]string, len(chains))
	for i, c := range chains {
		verdicts[i] = verdict(c)
	}
	if err := json.NewEncoder(os.Stdout).Encode(verdicts); err != nil {
		panic(err)
	}
}
