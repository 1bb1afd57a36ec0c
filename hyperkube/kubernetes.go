package main

import (
	"context"
	"os"
	_ "time/tzdata" // time zones of CronJobs, in images that have no zone files

	"github.com/spf13/cobra"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // kubectl's credential plugins
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	_ "k8s.io/component-base/logs/json/register"          // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // client-go's metrics
	_ "k8s.io/component-base/metrics/prometheus/version"  // kubernetes_build_info
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// serve runs a component as its upstream main function does. The command is
// made only now, because making one registers flags and feature gates.
func serve(newCommand func() *cobra.Command) func() {
	return func() {
		restoreCobra()
		os.Exit(cli.Run(newCommand()))
	}
}

func runKubelet() {
	restoreCobra()
	os.Exit(cli.Run(kubelet.NewKubeletCommand(context.Background())))
}

func runKubectl() {
	restoreCobra()
	// The verbosity has to be in force while the command is still being made:
	// that is when plugins and the user's kuberc are read. A bad value is
	// reported later, when the flags are parsed.
	_, _ = logs.GlogSetter(kubectl.GetLogVerbosity(os.Args))
	if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
		kubectlutil.CheckErr(err)
	}
}

var (
	runAPIServer         = serve(apiserver.NewAPIServerCommand)
	runControllerManager = serve(controllermanager.NewControllerManagerCommand)
	runProxy             = serve(proxy.NewProxyCommand)
	runScheduler         = serve(func() *cobra.Command { return scheduler.NewSchedulerCommand() })
)
