package main

// programs maps a program's name to what runs it, with os.Args set as if the
// program stood alone.
var programs = map[string]func(){
	"etcd":                    runEtcd,
	"etcdctl":                 runEtcdctl,
	"etcdutl":                 runEtcdutl,
	"kube-apiserver":          runAPIServer,
	"kube-controller-manager": runControllerManager,
	"kube-proxy":              runProxy,
	"kube-scheduler":          runScheduler,
	"kubectl":                 runKubectl,
	"kubelet":                 runKubelet,
}
