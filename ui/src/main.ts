import { mount } from 'svelte'
import 'uplot/dist/uPlot.min.css'
import './app.css'
import App from './App.svelte'
import { theme } from './lib/theme.svelte'

theme.wear(document.documentElement)
mount(App, { target: document.getElementById('app')! })
