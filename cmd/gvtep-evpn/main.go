package main
import _ "github.com/osrg/gobgp/v4/pkg/server"
func main(){}
